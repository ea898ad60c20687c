"""A nested dataclass is flat among the keys of its holder, which may have defaults of its own for it."""

import dataclasses
from dataclasses import dataclass, field

import pytest

from benchmarks.config import parse_config, resolved
from benchmarks.keys import check_values, describe_keys, flat_class, from_keys, key_fields, to_keys
from rewards import InputError


@dataclass(frozen=True)
class Inner:
    depth: int = field(default=1, metadata={"help": "how deep"})
    name: str = "plain"

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise InputError(f"inner: depth is {self.depth}; it must be at least 0")


@dataclass
class Outer:
    output_dir: str
    inner: Inner = field(default=Inner(depth=5))
    width: float = 1.0
    words: list[str] = field(default_factory=list)
    digest: str = field(default="", metadata={"key": False})


def test_nested_fields_are_keys_where_their_holder_stands_with_its_default() -> None:
    assert list(key_fields(Outer)) == ["output_dir", "depth", "name", "width", "words"]
    assert key_fields(Outer)["depth"][1].default == 5
    assert key_fields(Outer)["depth"][1].metadata["help"] == "how deep"
    assert [one.name for one in dataclasses.fields(flat_class(Outer))] == list(key_fields(Outer))


def test_keys_are_described_with_their_defaults() -> None:
    assert describe_keys(Outer) == [
        ("output_dir", "[required]"), ("depth", "how deep [default: 5]"), ("name", "[default: plain]"),
        ("width", "[default: 1.0]"), ("words", ""),
    ]  # fmt: skip


def test_keys_and_instances_are_the_same_thing() -> None:
    outer = Outer("o", Inner(2, "x"), 3.0, ["a"])
    assert to_keys(outer) == {"output_dir": "o", "depth": 2, "name": "x", "width": 3.0, "words": ["a"]}
    assert from_keys(Outer, to_keys(outer), "here") == outer
    assert from_keys(Outer, {"output_dir": "o"}, "here") == Outer("o", Inner(5))
    assert from_keys(Outer, {"output_dir": "o", "name": "y"}, "here").inner == Inner(5, "y")


@pytest.mark.parametrize("words", [("--depth", "7"), ("--depth=7",)])
def test_a_flat_key_reaches_the_nested_dataclass_from_file_and_command_line(words: tuple[str, ...]) -> None:
    (outer,) = parse_config({"output_dir": "o", "name": "file"}, words, (Outer,))
    assert outer == Outer("o", Inner(7, "file"))
    assert resolved(outer) == to_keys(outer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"output_dir": "o", "depht": 1}, "here: 'depht' is no key; did you mean 'depth'?"),
        ({"output_dir": "o", "inner": {}}, "here: 'inner' is no key"),
        ({"output_dir": "o", "digest": "d"}, "here: 'digest' is no key"),
        ({"depth": 1}, "here: output_dir is missing; set it"),
        ({"output_dir": "o", "depth": "1"}, "here: depth is '1'; write a whole number"),
        ({"output_dir": "o", "depth": True}, "here: depth is True; write a whole number"),
        ({"output_dir": "o", "depth": -1}, "inner: depth is -1; it must be at least 0"),
    ],
)
def test_what_is_wrong_with_a_key_is_one_line(keys: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        from_keys(Outer, keys, "here")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@dataclass
class Listed:
    entries: list[str | dict[str, int]]


def test_a_list_takes_what_its_annotation_says_from_a_file_and_words_from_the_command_line() -> None:
    assert parse_config({"entries": ["a", {"b": 1}]}, (), (Listed,)) == (Listed(["a", {"b": 1}]),)
    assert parse_config({"entries": ["a"]}, ("--entries", "b", "c"), (Listed,)) == (Listed(["b", "c"]),)
    with pytest.raises(InputError, match=r"entries is \[1\]; write a list such as \[a, b\], each text .* or a mapping"):
        parse_config({"entries": [1]}, (), (Listed,))


def test_values_of_other_keys_are_passed_over() -> None:
    check_values(Outer, {"width": 1, "elsewhere": object()}, "here")

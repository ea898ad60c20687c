"""Configurations: TRL's keys and ours, with the nearest name for a mistyped one and one line for a bad file."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.config import parse_config, read_yaml, resolved
from benchmarks.evaluation.run import EvalArguments
from benchmarks.evidence.prompts import PromptConfig
from rewards import InputError
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments
from sft.train import SFTArguments

CONFIGS = Path(__file__).parents[2] / "configs"
MINIMAL = {"traces": "t.jsonl", "output_dir": "out", "model_name_or_path": "m", "bf16": False, "use_cpu": True}


def parse(source: Any, *words: str) -> tuple[SFTArguments, Any, Any]:
    from trl import ModelConfig, SFTConfig

    ours, args, model = parse_config(source, words, (SFTArguments, SFTConfig, ModelConfig))
    return ours, args, model


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sft.yaml"
    path.write_text(text, encoding="utf-8")
    return path


ON_CPU = ("--use_cpu", "true", "--bf16", "false")  # what a configuration for a GPU needs to parse anywhere
YAML = "traces: t.jsonl\noutput_dir: out\nmodel_name_or_path: m\nbf16: false\nuse_cpu: true\n"


def test_a_file_and_a_mapping_give_the_same(tmp_path: Path) -> None:
    from_file, from_mapping = parse(write(tmp_path, YAML)), parse(MINIMAL)
    assert from_file[0] == from_mapping[0] == SFTArguments(traces="t.jsonl")
    assert resolved(*from_file) == resolved(*from_mapping)
    assert parse(str(write(tmp_path, YAML)))[0] == from_file[0]


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    args = parse(write(tmp_path, YAML + "learning_rate: 1e-4\nweight_decay: '0.5'\nlora_r: 8\n"))
    assert args[1].learning_rate == 1e-4
    assert isinstance(args[1].learning_rate, float)
    assert args[1].weight_decay == 0.5
    assert args[2].lora_r == 8


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, YAML + "learning_rate: 1.0e-4\nseed: 1\n")
    ours, args, _ = parse(path, "--learning_rate", "2e-4", "--traces=other.jsonl")
    assert (args.learning_rate, args.seed, ours.traces) == (2e-4, 1, "other.jsonl")


@pytest.mark.parametrize("words", [("--out", "o/p"), ("--out=o/p",), ("--output_dir", "o/p")])
def test_out_is_the_key_of_what_is_written(words: tuple[str, ...]) -> None:
    assert parse(MINIMAL, *words)[1].output_dir == "o/p"
    if words[0] != "--output_dir":
        (traces,) = parse_config({"output": "t.jsonl"}, words, (TraceArguments,))
        assert traces.output == "o/p"
        with pytest.raises(InputError, match="'out' is no key"):
            parse_config({}, words, (PromptConfig,))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("learning_rat", "learning_rate"), ("trace", "traces"), ("lora_rr", "lora_r"), ("outputdir", "output_dir"),
     ("Seed", "seed"), ("max_len", "max_length")],
)  # fmt: skip
def test_a_mistyped_key_suggests_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    path = write(tmp_path, f"{YAML}{key}: 1\n")
    with pytest.raises(InputError) as error:
        parse(path)
    assert str(error.value) == f"{path}: {key!r} is no key; did you mean {nearest!r}?"
    for words in ((f"--{key}", "1"), (f"--{key}=1",)):
        with pytest.raises(InputError) as error:
            parse(MINIMAL, *words)
        assert str(error.value) == f"command line: {key!r} is no key; did you mean {nearest!r}?"


@pytest.mark.parametrize("key", ["zzzz", "1", "1: x"])
def test_any_unknown_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match="is no key"):
        parse(write(tmp_path, f"{YAML}{key}: 1\n" if ":" not in key else f"{YAML}{key}\n"))


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx: 1", "a: 1\n b: 2", "'open", "a: 2026-99-99", "[" * 5000])
def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match="not YAML") as error:
        read_yaml(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "text", "5"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="holds no keys"):
        read_yaml(write(tmp_path, text))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(InputError, match="not YAML"):
        read_yaml(tmp_path / "x.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(InputError, match="no such configuration file"):
            parse(path)


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not YAML"):
        read_yaml(write(tmp_path, "a: !!python/object/apply:os.getcwd []\n"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="traces"):
        parse({key: value for key, value in MINIMAL.items() if key != "traces"})


@pytest.mark.parametrize(
    ("key", "value"), [("learning_rate", "fast"), ("seed", "one"), ("lora_r", "eight"), ("use_peft", "perhaps")]
)
def test_a_value_that_does_not_fit_is_one_line(tmp_path: Path, key: str, value: str) -> None:
    for source, words in ((write(tmp_path, f"{YAML}{key}: {value}\n"), ()), (MINIMAL, (f"--{key}", value))):
        with pytest.raises(InputError) as error:
            parse(source, *words)
        assert key in str(error.value)
        assert "\n" not in str(error.value)


TRACES = {"output": "t.jsonl", "teacher": "m", "base_url": "http://localhost/v1"}


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("mode: Blind", "mode is 'Blind'; write one of blind, rationalize"),
        ("thinking: Strip", "thinking is 'Strip'; write one of strip, keep"),
        ("thinking: no", "thinking is False; write one of strip, keep"),
        ("critics: gpt-4o", "critics is 'gpt-4o'; write a list such as [a, b], each text"),
        ("critics: [1]", "critics is [1]; write a list"),
        ("critics: [c, c]", "name each model once"),
        ("critics: [{a: b}]", "critics is [{'a': 'b'}]; write a list such as [a, b], each text"),
        ("critics: null", "critics is None; write a list"),
        ("rows: 6.0", "rows is 6.0; write a whole number"),
        ("rows: true", "rows is True; write a whole number"),
        ("rows: null", "rows is None; write a whole number"),
        ("temperature: true", "temperature is True; write a number or null"),
        ("temperature: [1]", "temperature is [1]; write a number or null"),
        ("lemmas: 1", "lemmas is 1; write true or false"),
        ("output: null", "output is None; write text"),
        ("output: 5", "output is 5; write text (in quotes"),
        ("max_tokens: null", "max_tokens is None; write a whole number"),
        ("extra_body: [top_p]", "extra_body is of type list; write a mapping or text"),
        ("extra_body: {day: 2026-01-01}", "extra_body: no JSON"),
        ("data: 3", "data is 3; write text (in quotes, if YAML reads it as something else) or null"),
    ],
)
def test_a_value_of_ours_is_held_against_its_annotation(tmp_path: Path, line: str, allowed: str) -> None:
    values = {key: value for key, value in TRACES.items() if key != line.partition(":")[0]}
    path = write(tmp_path, "".join(f"{key}: {value}\n" for key, value in values.items()) + line + "\n")
    with pytest.raises(InputError) as error:
        parse_config(path, (), (TraceArguments, EndpointArguments))
    assert allowed in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "extra_body: [{api_key: sk-planted-4711}]", "base_url: ['http://u:sk-planted-4711@h/v1']",
        "api_key_env: [sk-planted-4711]", 'extra_body: {a: "sk-planted-4711', "api_key: sk-planted-4711",
        "\tbase_url: sk-planted-4711",
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_not_repeated(tmp_path: Path, line: str) -> None:
    values = {key: value for key, value in TRACES.items() if key != line.partition(":")[0]}
    path = write(tmp_path, "".join(f"{key}: {value}\n" for key, value in values.items()) + line + "\n")
    with pytest.raises(InputError) as error:
        parse_config(path, (), (TraceArguments, EndpointArguments))
    assert "sk-planted-4711" not in str(error.value)


SECRET = "hf_planted4711"


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hub_token": SECRET}, ()),
        ({"hub_token": [SECRET]}, ()),
        ({}, ("--hub_token", SECRET)),
        ({}, (f"--hub_token={SECRET}", SECRET)),
        ({"model_init_kwargs": {"token": SECRET}}, ()),
        ({"model_init_kwargs": f'{{"token": "{SECRET}"}}'}, ()),
        ({}, ("--model_init_kwargs", f'{{"token": "{SECRET}"}}')),
    ],
    ids=str,
)
def test_the_hub_s_token_is_refused_and_not_repeated(stage: str, values: Any, words: tuple[str, ...]) -> None:
    from rl.train import read_arguments as read_grpo
    from sft.train import read_arguments as read_sft

    common = {"output_dir": "o", "model_name_or_path": "m", "bf16": False, "use_cpu": True}
    ours = {"traces": "t.jsonl", "use_peft": True} if stage == "sft" else {"sft_run": "s"}
    read = read_sft if stage == "sft" else read_grpo
    read({**common, **ours, "hub_token": None})
    with pytest.raises(InputError, match="is a credential, .*set HF_TOKEN in the environment") as error:
        read({**common, **ours, **values}, words)
    assert SECRET not in str(error.value)


def test_a_password_in_the_url_of_trl_s_server_is_refused() -> None:
    from rl.train import read_arguments

    config = {"output_dir": "o", "model_name_or_path": "m", "bf16": False, "use_cpu": True, "sft_run": "s"}
    with pytest.raises(InputError, match="vllm_server_base_url: holds user, password") as error:
        read_arguments({**config, "vllm_server_base_url": f"http://u:{SECRET}@h:8000"})
    assert SECRET not in str(error.value)


def test_values_that_fit_are_taken(tmp_path: Path) -> None:
    text = "rows: '6'\ntemperature: 1\ncritics: [a]\ndata: null\nextra_body: {top_p: .9}\nlemmas: yes\nbalance: 'no'\n"
    path = write(tmp_path, "".join(f"{key}: {value}\n" for key, value in TRACES.items()) + text)
    traces, endpoint = parse_config(path, ("--critics", "b", "c"), (TraceArguments, EndpointArguments))
    assert (traces.rows, traces.data, traces.prompt.lemmas, traces.balance) == (6, None, True, False)
    assert (endpoint.temperature, endpoint.critics, endpoint.extra_body) == (1, ["b", "c"], {"top_p": 0.9})
    (evaluation,) = parse_config({"output_dir": "o", "model": "m", "engine": "openai"}, (), (EvalArguments,))
    assert evaluation.engine == "openai"
    with pytest.raises(InputError, match="engine: 'OpenAI' is unknown; use one of auto, vllm"):
        parse_config({"output_dir": "o", "model": "m", "engine": "OpenAI"}, (), (EvalArguments,))


@pytest.mark.parametrize("text", ["rows: 1\nseed: 2\nrows: 3\n", "a:\n  rows: 1\n  'rows': 2\n"])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"line 3, column \d: key 'rows' is given twice") as error:
        read_yaml(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_one_key_in_two_mappings_is_no_repetition(tmp_path: Path) -> None:
    text = "base: &b {x: 1, y: 2}\na: {<<: *b, x: 3}\nc: [{x: 4}, {x: 5}]\n1: one\n'1': text\n"
    values = read_yaml(write(tmp_path, text))
    assert values["a"] == {"x": 3, "y": 2}
    assert (values[1], values["1"]) == ("one", "text")


def test_what_defines_a_run_is_kept(tmp_path: Path) -> None:
    base = resolved(*parse(MINIMAL))
    assert base["traces"] == "t.jsonl"
    for key, value in (
        ("learning_rate", 3e-4), ("seed", 5), ("lora_r", 8), ("lora_target_modules", ["all-linear"]),
        ("traces", "u.jsonl"), ("max_length", 512), ("dtype", "bfloat16"),
    ):  # fmt: skip
        changed = resolved(*parse({**MINIMAL, key: value}))
        assert {name for name in {*base, *changed} if base.get(name) != changed.get(name)} == {key}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/sft.yaml")), ids=lambda path: path.parent.name)
def test_shipped_stage_one_configurations_parse(path: Path) -> None:
    ours, args, model = parse(path, *ON_CPU)
    assert model.use_peft
    assert args.max_length
    assert ours.traces


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/grpo.yaml")), ids=lambda path: path.parent.name)
def test_shipped_stage_two_configurations_parse_and_start_from_their_stage_one(path: Path) -> None:
    from trl import GRPOConfig, ModelConfig

    from rewards import Context
    from rl.train import GRPOArguments, load_rewards

    ours, args, model = parse_config(path, ON_CPU, (GRPOArguments, GRPOConfig, ModelConfig))
    first = read_yaml(path.with_name("sft.yaml"))
    assert ours.sft_run == first["output_dir"] != args.output_dir
    assert model.model_name_or_path == first["model_name_or_path"]
    counts = {"upregulated": 1, "downregulated": 1, "not differentially expressed": 1}
    rates = pd.DataFrame({"item_id": ["i"], "p_up": [0.2], "p_down": [0.2], "p_none": [0.6]})
    assert len(load_rewards(ours.rewards, Context(counts, {"gene_rate": lambda: rates}), args.scale_rewards)) == len(
        ours.rewards
    )


def test_there_are_configurations_of_each_model() -> None:
    for model in ("smollm2-135m", "deepseek-r1-distill-llama-8b", "qwen3-4b", "demo"):
        assert {"sft.yaml", "grpo.yaml"} <= {path.name for path in (CONFIGS / model).iterdir()}

"""Configurations: TRL's keys and ours, with the nearest name for a mistyped one and one line for a bad file."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.config import parse_config, read_yaml, resolved
from benchmarks.evaluation.run import EvalArguments
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import to_keys
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


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx: 1", "a: 1\n b: 2", "'open", "[" * 5000])
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


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="output"):
        parse_config({"rows": 3}, (), (TraceArguments,))


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
        ("thinking: no", "thinking is 'no'; write one of strip, keep"),
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
        ("extra_body: {day: !!timestamp 2026-01-01}", "extra_body: no JSON"),
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/sft.yaml")), ids=lambda path: path.parent.name)
def test_shipped_stage_one_configurations_parse(path: Path) -> None:
    ours, args, model = parse(path, *ON_CPU)
    assert model.use_peft
    assert args.max_length
    assert ours.traces


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("**/grpo.yaml")), ids=lambda path: path.parent.name)
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


# --- YAML by 1.2 ------------------------------------------------------------------------------------------------------

EVAL = "output_dir: o\nmodel: m\nengine: openai\n"


def evaluation(tmp_path: Path, text: str, *words: str) -> EvalArguments:
    (args,) = parse_config(write(tmp_path, EVAL + text), words, (EvalArguments,))
    return args


def stage_two(tmp_path: Path, text: str) -> tuple[Any, Any, Any]:
    from rl.train import read_arguments

    base = "output_dir: o\nmodel_name_or_path: m\nsft_run: s\nbf16: false\nuse_cpu: true\n"
    return read_arguments(write(tmp_path, base + text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-1", 0.1), ("1E5", 1e5), ("-2.5e3", -2500.0), ("+.5e0", 0.5), ("1.5e-3", 0.0015), ("1.", 1.0), (".5", 0.5),
     ("1_000", 1000), ("0x1F", 31), ("0", 0), ("-7", -7), ("00.5", 0.5), (".inf", float("inf")), ("true", True),
     ("False", False), ("null", None), ("~", None), ("", None), ("010", "010"), ("1:30", "1:30"), ("1:30.5", "1:30.5"),
     ("0b11", "0b11"), ("0o7", "0o7"), ("2026-01-31", "2026-01-31"), ("2026-99-99", "2026-99-99"), ("no", "no"),
     ("Off", "Off"), ("YES", "YES"), ("on", "on"), ("y", "y"), ("'no'", "no"), ("'1e-1'", "1e-1"), ("1e", "1e"),
     ("e5", "e5"), ("[1e-1, no, 010]", [0.1, "no", "010"]), ("{no: 1e1}", {"no": 10.0})],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    found = read_yaml(write(tmp_path, f"a: {text}\n"))["a"]
    assert found == value
    assert type(found) is type(value)


def test_words_stay_words_where_a_key_takes_text(tmp_path: Path) -> None:
    ours, args, _ = stage_two(tmp_path, "alarms: off\neval_strategy: no\nsave_strategy: no\n")
    assert (ours.alarms, str(args.eval_strategy.value), str(args.save_strategy.value)) == ("off", "no", "no")
    for word in ("no", "Off", "2026-01-31", "1e3", "12e4567", "010", "1:30"):
        assert evaluation(tmp_path, f"name: {word}\nrevision: {word}\n").name == word


@pytest.mark.parametrize("word", ["yes", "On", "'yes'", "true"])
def test_words_are_truth_values_where_a_key_takes_one(tmp_path: Path, word: str) -> None:
    assert evaluation(tmp_path, f"lemmas: {word}\n").protocol.prompt.lemmas is True
    ours, args, _ = stage_two(tmp_path, f"balance: {word}\ngradient_checkpointing: {word}\nscale_rewards: {word}\n")
    assert (ours.balance, args.gradient_checkpointing, args.scale_rewards) == (True, True, "group")
    before = resolved(*stage_two(tmp_path, "balance: true\ngradient_checkpointing: true\nscale_rewards: true\n"))
    assert resolved(ours, args, stage_two(tmp_path, "")[2]) == before


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    from rewards import Context, compose

    ours, args, _ = stage_two(
        tmp_path,
        "reward_weights: [1e-1, 1]\nmax_steps: 1e3\nlearning_rate: 1e-5\nwarmup_steps: 1e-1\ntrain_items: 1e2\n"
        "rewards:\n- {name: accuracy, weight: 1e-1, schedule: {0: 1e-1, 10: 1}}\n- format\n",
    )
    assert (args.reward_weights, args.max_steps, args.learning_rate, args.warmup_steps) == ([0.1, 1], 1000, 1e-5, 0.1)
    assert type(args.max_steps) is int
    assert ours.train_items == 100
    assert compose(ours.rewards, Context()).weights == [0.1, 1.0]
    with pytest.raises(InputError, match="max_steps"):
        stage_two(tmp_path, "max_steps: 1.5e0\n")


@pytest.mark.parametrize("text", ["seed: 010", "items: 08", "temperature: 01.5e0", "seed: '010'", "max_model_len: 00"])
def test_a_number_that_begins_with_a_zero_is_refused(tmp_path: Path, text: str) -> None:
    if text.startswith("temperature"):  # a fraction has no base 8
        assert evaluation(tmp_path, f"{text}\nsamples: 2\n").protocol.temperature == 1.5
        return
    with pytest.raises(InputError, match=r": \S+: \d+ begins with a 0, .* without it"):
        evaluation(tmp_path, text + "\n")


@pytest.mark.parametrize("text", ["items: 1:30", "temperature: 1:30", "seed: 0b1", "samples: 2026-01-31"])
def test_what_is_no_number_is_none(tmp_path: Path, text: str) -> None:
    key = text.split(":")[0]
    with pytest.raises(InputError, match=f"{key}.* invalid (int|float) value"):
        evaluation(tmp_path, text + "\n")


@pytest.mark.parametrize(
    "text",
    ["extra_body: {stream: no}", "extra_body: {a: {b: [1, off]}}"],
)
def test_a_word_that_nothing_says_the_type_of_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        InputError, match="extra_body.*: (no|off) is text in YAML 1.2 .* write true or false, or quotes"
    ):
        evaluation(tmp_path, text + "\n")
    assert evaluation(tmp_path, "extra_body: {stream: 'no', x: false}\n").extra_body == {"stream": "no", "x": False}


def test_parameters_of_a_reward_are_of_no_known_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rewards: parameters: strict: no is text in YAML 1.2"):
        stage_two(tmp_path, "rewards: [{name: 'm.py:f', parameters: {strict: no}}]\n")


def test_what_a_run_stored_is_read_as_it_was_stored(tmp_path: Path) -> None:
    import yaml

    stored = {
        "output_dir": "1e5",
        "model": "010",
        "engine": "openai",
        "name": "no",
        "revision": "1:30",
        "data": "2026-01-31",
    }
    before = parse_config(stored, (), (EvalArguments,))[0]
    assert (before.output_dir, before.model, before.name) == ("1e5", "010", "no")
    path = write(tmp_path, yaml.safe_dump(to_keys(before)))
    assert parse_config(path, (), (EvalArguments,))[0] == before


def test_the_home_folder_stands_for_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = str(tmp_path / "home")
    args = evaluation(tmp_path, "adapter: ~/a\ndata: '~/labels'\nname: a~/b\n", "--output_dir", f"{home}/x")
    assert (args.adapter, args.data, args.name, args.output_dir) == (f"{home}/a", f"{home}/labels", "a~/b", f"{home}/x")
    (from_mapping,) = parse_config({"output_dir": "~/runs/x", "model": "~/m"}, (), (EvalArguments,))
    assert (from_mapping.output_dir, from_mapping.model) == (f"{home}/runs/x", f"{home}/m")
    found = read_yaml(write(tmp_path, "conditions: {a: {sft: {config: ~/c.yaml}}}\nruns: [~/r]\n"))
    assert (found["conditions"]["a"]["sft"]["config"], found["runs"]) == (f"{home}/c.yaml", [f"{home}/r"])

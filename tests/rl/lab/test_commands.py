"""The reward lab by command: exit codes, one-line errors, every command of the page, time."""

import json
import random
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from command import Done
from command import synthpert as run_synthpert
from full_corpus import full_corpus
from without_clock import PATIENCE, count_steps

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.screens.sample import load_sample
from rewards import LABELS, CheckError, InputError, accuracy, parse_answer
from rl.lab.check import HONEST
from rl.lab.commands import (
    SAMPLE_ONLY,
    check_config,
    describe_check,
    read_reward_config,
    replay_configs,
)
from rl.lab.exploits import BLIND, EXPLOITS, honest_think, say
from rl.lab.rows import check_rows, draw_checked
from rl.rollout_files import ITEM, read_rollouts, write_rollouts

REPO = Path(__file__).resolve().parents[3]
PAGES = [REPO / "docs" / "rewards.md", REPO / "docs" / "examples" / "README.md"]


@pytest.fixture(scope="module", autouse=True)
def fifth_of_the_sample() -> Iterator[None]:
    """A check scores every training row three times, which is most of its time: here it finds a fifth of them."""
    few = load_sample().iloc[1::5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.evidence.corpus.load_sample", few.copy)
        yield


def synthpert(*words: Any, cwd: Path, code: int = 0) -> Done:
    done = run_synthpert(*words, cwd=cwd)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done


def store_rollouts(run: Path, items: int, seed: int = 0) -> None:
    """Store 8 completions each for items of the sample, some honest and some gaming, 25 items a step."""
    corpus = open_corpus("sample")
    rows = check_rows(corpus.train.head(items), corpus, PromptConfig(evidence=5))
    pick = random.Random(seed)
    makers = list(EXPLOITS.values())
    for start in range(0, len(rows), 25):
        step = start // 25 + 1
        columns: dict[str, list[Any]] = {}
        for row in rows[start : start + 25]:
            for _ in range(8):
                answer = pick.choice(LABELS)
                text = say(honest_think(row, pick.choice((3, 8, 22))), answer)
                if pick.random() < 0.2:
                    text = pick.choice(makers)(row, answer)
                parsed = parse_answer(text)
                (score,) = accuracy([text], [row.label])
                values = {
                    "step": step, "group": f"{step}.{row.item_id}", "item_id": row.item_id,
                    "cell_line": row.cell_line, "pert": row.pert, "gene": row.gene, "label": str(row.label),
                    "prompt": row.prompt, "completion": text, "answer": parsed.label and str(parsed.label),
                    "status": str(parsed.status), "completion_tokens": len(text) // 4, "reward/accuracy": score,
                    "total_reward": score, "advantage": 0.0,
                }  # fmt: skip
                for key, value in values.items():
                    columns.setdefault(key, []).append(value)
        write_rollouts(run, step, 0, 0, columns, ["accuracy"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: their blocks as files, the shipped configurations, a run with rollouts."""
    folder = tmp_path_factory.mktemp("lab")
    pages = "".join(page.read_text() for page in PAGES)
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", pages, re.DOTALL):
        (folder / name).write_text(text.replace("timeout: 20 ", f"timeout: {PATIENCE:g} "))  # which nothing can miss
    for name in ("configs", "docs"):
        (folder / name).symlink_to(REPO / name)
    store_rollouts(folder / "runs" / "demo" / "grpo", 50)
    return folder


FEW = ["--rows", "30"]  # for the exploits: they are the tenth of the default, and so is the time
MORE = {"rewards.yaml": "60"}  # by 30 rows, its random label is not yet told from the honest policy


def page_commands() -> list[Any]:
    lines = [line for page in PAGES for line in page.read_text().splitlines() if line.startswith("synthpert ")]
    assert len(lines) >= 7
    training = [line for line in lines if line.startswith("synthpert grpo")]
    assert len(training) == 2  # tests/slow/test_reward_lab.py runs them
    return [pytest.param(line, id=line[10:70]) for line in lines if line not in training]


@pytest.mark.parametrize("line", page_commands())
def test_every_command_of_the_pages_runs(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.study._in_new_process", lambda function, *arguments: function(*arguments))
    words = shlex.split(line, comments=True)[1:]
    if words[:2] == ["rewards", "check"]:
        words += ["--rows", MORE[words[2]]] if words[2] in MORE else FEW
    expected = 1 if "exits with 1" in line else 0
    done = synthpert(*words, cwd=folder, code=expected)
    assert done.stdout.strip()


def test_the_unit_test_of_the_page_passes_and_fails_for_another_reward(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    try:
        names = runpy.run_path(str(folder / "test_mine.py"))
    finally:
        sys.modules.pop("mine", None)  # other tests have files of that name
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()
    test.__globals__["right_and_brief"] = lambda completions, **columns: [1.0] * len(completions)
    with pytest.raises(AssertionError):
        test()


def test_a_reward_of_ones_own_is_called_once_a_step_of_the_rollouts_not_once_a_completion(tmp_path: Path) -> None:
    store_rollouts(tmp_path / "run", 50)
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from rewards import completion_text\n\n"
        "def brief(completions, **columns):\n"
        "    with Path(__file__).with_name('calls').open('a') as file:\n"
        "        file.write(f'{len(completions)}\\n')\n"
        "    return [1 / (1 + len(completion_text(one))) for one in completions]\n"
    )
    synthpert("rewards", "replay", "mine.py:brief", "--rollouts", "run", cwd=tmp_path)
    summary = json.loads((tmp_path / "runs" / "replay" / "replay.json").read_text())
    assert (tmp_path / "calls").read_text().split() == ["200"] * 2
    assert summary["rollouts"]["completions"] == 400
    assert [one["name"] for one in summary["configs"]] == ["mine.py:brief", "as trained"]


def test_a_replay_s_work_grows_with_the_rollouts_and_not_with_their_square(tmp_path: Path) -> None:
    steps = []
    for items in (10, 25, 100):  # at the first, modules are loaded
        run = tmp_path / str(items)
        store_rollouts(run, items)
        work = partial(replay_configs, [read_reward_config("format")], run, run / "page", data="sample")
        steps.append(count_steps(work))
    assert steps[2] < 5 * steps[1]


REPLAY = ["replay", "crash.py:crashes", "--rollouts", "runs/demo/grpo", "--out"]  # would end with 1 once it scores


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "acuracy"], "no such file or reward (did you mean 'accuracy'?)"),
        (["check", "Margin"], "did you mean 'margin'?"),
        (["check", "mine.py"], "say which function of it is the reward: mine.py:function"),
        (["check", "none.yaml"], "none.yaml: no such file"),
        (["check", "mine.py:nothing"], "has no 'nothing'"),
        (["check", "typo.yaml"], "did you mean 'rewards'"),
        (["check", "unknown.yaml"], "did you mean 'accuracy'"),
        (["check", "broken.yaml"], "not YAML"),
        (["check", "accuracy", "--data", "nowhere"], "nowhere"),
        (["replay", "accuracy", "--rollouts", "nowhere"], "nowhere: no such folder"),
        (["replay", "accuracy", "format", "margin", "--rollouts", "runs/demo/grpo"], "give one, or two"),
        (["replay", "accuracy"], "--rollouts"),
        (["check", "configs/study/rewards.yaml"], "rewards.yaml: a study's file; give a file with the `rewards`"),
        ([*REPLAY, "mine.py"], "mine.py: is a file; choose another folder for --out"),
        ([*REPLAY, "mine.py/page"], "mine.py: is a file; choose another folder for --out"),
        ([*REPLAY, "runs/demo/grpo"], "runs/demo/grpo: holds other files than a replay's"),
        ([*REPLAY, "/proc/page"], "/proc: cannot be written ("),
        (["replay", "accuracy", "--rollouts", "unlabelled.parquet"], "accuracy needs labels"),
        (["check", "group.yaml"], "group.yaml: rewards: balanced_accuracy has no effect with scale_rewards: group"),
        (["replay", "group.yaml", "--rollouts", "runs/demo/grpo"], "has no effect with scale_rewards: group"),
    ],
)
def test_bad_input_is_one_line_that_names_it(folder: Path, words: list[str], said: str) -> None:
    (folder / "typo.yaml").write_text("reward: [accuracy]")
    (folder / "unknown.yaml").write_text("rewards: [acuracy]")
    (folder / "broken.yaml").write_text("rewards: [accuracy")
    (folder / "group.yaml").write_text("rewards: [balanced_accuracy]")
    (folder / "crash.py").write_text("def crashes(completions, **columns):\n    return [1 / 0]\n")
    read_rollouts(folder / "runs" / "demo" / "grpo").head(8).assign(label=None).to_parquet(
        folder / "unlabelled.parquet"
    )
    done = synthpert("rewards", *words, cwd=folder, code=2)
    assert said in done.stderr


def test_a_replay_that_replaces_another_says_so(folder: Path) -> None:
    words = ["rewards", "replay", "format", "--rollouts", "runs/demo/grpo", "--out", "twice"]
    first, second = (synthpert(*words, cwd=folder) for _ in range(2))
    assert "twice" not in first.stderr
    assert "twice: holds the page of an earlier replay, which this one replaces" in second.stderr


def test_a_reward_that_raises_ends_the_replay_with_1(folder: Path) -> None:
    (folder / "bad.py").write_text("def crashes(completions, **columns):\n    return [1 / 0]\n")
    for words in (["check", "bad.py:crashes"], ["replay", "bad.py:crashes", "--rollouts", "runs/demo/grpo"]):
        done = synthpert("rewards", *words, cwd=folder, code=1)
        assert "crashes" in done.stderr and "ZeroDivisionError" in done.stderr


# --- check -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_balanced_accuracy_pays_for_the_genes_own_rate_and_margin_does_not(full_frame: pd.DataFrame) -> None:
    """On all labels: the shortcut that SFT and GRPO would learn first. Counted over all training rows."""
    corpus = full_corpus(full_frame)
    drawn, weight = draw_checked(corpus.train, 3000, balance=False)
    rates = corpus.rates(drawn)[["p_up", "p_down", "p_none"]].to_numpy()
    answer = [str(LABELS[at]) for at in rates.argmax(axis=1)]
    completions = [say("a", one) for one in answer]
    columns = {name: drawn[name].astype(str).tolist() for name in ("item_id", "label")}
    for name, low, high in (("balanced_accuracy", HONEST, 1.0), ("margin", -0.05, 0.03)):
        composition = read_reward_config(name).compose(drawn, corpus, corpus.train["label"].value_counts().to_dict())
        earned = composition(completions, **columns)
        mean = sum(float(e or 0.0) * w for e, w in zip(earned, weight, strict=True)) / sum(weight)
        assert low < mean < high, name


def test_rare_labels_are_drawn_more_and_count_less() -> None:
    train = open_corpus("sample").train
    for balance in (False, True):
        drawn, weight = draw_checked(train, 90, balance=balance)
        counts = drawn["label"].astype(str).value_counts()
        assert counts.tolist() == [30, 30, 30]
        total = {str(label): 0.0 for label in LABELS}
        for label, one in zip(drawn["label"].astype(str), weight, strict=True):
            total[label] += one / sum(weight)
        wanted = dict.fromkeys(total, 1 / 3) if balance else train["label"].value_counts(normalize=True).to_dict()
        assert total == pytest.approx(wanted)


def test_a_gameable_configuration_fails_by_its_exploit(folder: Path) -> None:
    done = synthpert("rewards", "check", "mine.py:contains_label", *FEW, cwd=folder, code=1)
    assert "'all labels" in done.stderr and "more than an honest policy" in done.stderr
    assert "MORE than honest" in done.stdout


def test_a_check_says_what_its_verdict_rests_on(tmp_path: Path) -> None:
    lines = describe_check(check_config(read_reward_config("confidence"), "sample", rows=30))
    start = lines.index("what the verdict rests on:")
    gold, honest, exploits, missing = lines[start + 1 : start + 5]
    assert f"on all {len(open_corpus('sample').train)} rows" in gold
    assert "right 60% of the time" in honest and "a template of 1 sentence," in honest and "confidence 0.6" in honest
    assert f"exploits: {len(EXPLOITS)} on 30 rows; {len(BLIND)} know nothing" in exploits
    assert "not checked: whether the reward tells good reasoning from bad" in missing
    assert lines[-1].startswith("verdict: passes; no other label earns more than the gold one on any of")
    (tmp_path / "bad.py").write_text("def bad(completions, **columns):\n    return [1.0] * len(completions)\n")
    lines = describe_check(check_config(read_reward_config(f"{tmp_path}/bad.py:bad"), "sample", rows=30))
    assert lines[-2] == "verdict: fails" and "pays all 6 texts of an item the same" in lines[-1]


def test_a_constant_shift_is_said_to_do_nothing(folder: Path) -> None:
    (folder / "one.py").write_text("def one(completions, **columns):\n    return [1.0] * len(completions)\n")
    (folder / "shift.yaml").write_text("rewards: [accuracy, 'one.py:one']\nbalance: true\n")
    done = synthpert("rewards", "check", "shift.yaml", *FEW, cwd=folder)
    assert "one.py:one: pays all 6 texts of an item the same; either it is a constant shift" in done.stdout


def test_where_no_data_is_named_the_full_labels_are_taken_and_the_sample_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHPERT_DATA", str(tmp_path / "labels"))
    with pytest.raises(InputError, match=str(tmp_path / "labels")):
        check_config(read_reward_config("accuracy"), rows=30)
    monkeypatch.delenv("SYNTHPERT_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    checked = check_config(read_reward_config("margin"), rows=30)
    assert describe_check(checked)[0].endswith("training rows of sample; the verdict holds for the sample only")
    assert SAMPLE_ONLY in checked.notes
    (tmp_path / ".cache" / "synthpert" / "perturbqa").mkdir(parents=True)
    with pytest.raises(InputError, match="perturbqa"):
        check_config(read_reward_config("accuracy"), rows=30)


def test_a_run_on_the_sample_is_checked_on_the_rows_that_it_takes(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rewards: [margin]\ndata: sample\n")
    checked = check_config(read_reward_config(str(tmp_path / "c.yaml")), rows=30)
    assert SAMPLE_ONLY not in checked.notes and "training rows of sample" in describe_check(checked)[0]


def test_what_cannot_be_judged_is_printed(tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(
        "def some(completions, gene, **columns):\n    return [None if one < 'H' else 1.0 for one in gene]\n"
    )
    lines = describe_check(check_config(read_reward_config(f"{tmp_path}/some.py:some"), "sample", rows=30))
    for line in lines[lines.index("mean reward:") + 1 :][:2]:
        share = re.search(r"(\d+)% unscorable", line)
        assert share and 0 < int(share[1]) < 100, line


def test_a_confidence_that_no_prompt_asks_for_is_noted() -> None:
    for name, noted in (("confidence", True), ("accuracy", False)):
        notes = check_config(read_reward_config(name), "sample", rows=30).notes
        assert any("do not ask for a <confidence>" in note for note in notes) == noted


# --- replay ----------------------------------------------------------------------------------------------------------

SAME_COLUMNS = f"""
def same(completions, prompts, completion_ids, step, **columns):
    assert type(step) is int, step
    assert set(columns) == set({ITEM!r}), sorted(columns)
    for completion, prompt, ids in zip(completions, prompts, completion_ids, strict=True):
        assert completion[-1]["role"] == "assistant" and type(completion[-1]["content"]) is str
        assert prompt[-1]["role"] == "user" and prompt[-1]["content"]
        assert all(type(one) is int for one in ids)
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize(
    "words", [("check", *FEW), ("replay", "--rollouts", "runs/demo/grpo")], ids=lambda words: words[0]
)
def test_a_reward_of_ones_own_sees_the_same_columns_in_check_and_replay(folder: Path, words: tuple[str, ...]) -> None:
    """And in training: `test_a_trainers_reward_hands_on_what_trl_gives_and_the_step`, and the slow tests."""
    (folder / "same.py").write_text(SAME_COLUMNS)
    (folder / "same.yaml").write_text("rewards: [same.py:same, accuracy]\nbalance: true\n")
    synthpert("rewards", *words, "same.yaml", cwd=folder)


def test_an_item_outside_the_data_leaves_out_the_genes_rate_and_stops_only_rewards_that_need_it(folder: Path) -> None:
    frame = read_rollouts(folder / "runs" / "demo" / "grpo")
    frame.assign(item_id="k562|NEW|PAIR").to_parquet(folder / "own.parquet")
    synthpert("rewards", "replay", "accuracy", "--rollouts", "own.parquet", cwd=folder)
    summary = json.loads((folder / "runs" / "replay" / "replay.json").read_text())
    assert summary["configs"][0]["correlations"]["gene's rate"]["overall"] is None
    assert summary["configs"][0]["correlations"]["length"]["overall"] is not None
    assert "k562|NEW|PAIR" in summary["notes"][0]
    assert "left out: k562|NEW|PAIR" in (folder / "runs" / "replay" / "replay.html").read_text()
    done = synthpert("rewards", "replay", "margin", "--rollouts", "own.parquet", cwd=folder, code=2)
    assert "k562|NEW|PAIR" in done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"rewards": ["accuracy"], "reward_weights": [2.5]},
        {"rewards": [{"name": "accuracy", "weight": 2.5}]},
    ],
)
def test_what_a_run_paid_stands_with_its_weights(folder: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "runs" / "demo" / "grpo", run)
    (run / "config.yaml").write_text(yaml.safe_dump({**values, "data": "sample"}))
    page = replay_configs([read_reward_config("format")], run, tmp_path / "page")
    configs = json.loads(page.with_suffix(".json").read_text())["configs"]
    assert configs[1]["name"] == "as trained"
    assert configs[1]["components"]["accuracy"]["weight"] == 2.5


# --- configurations -------------------------------------------------------------------------------------------------


def test_a_configuration_of_stage_two_and_one_reward_are_read_alike(tmp_path: Path) -> None:
    assert read_reward_config("accuracy").rewards == ["accuracy"]
    assert read_reward_config("think_format_reward").rewards == ["think_format_reward"]
    config = read_reward_config(str(REPO / "configs" / "qwen3-4b" / "grpo.yaml"))
    assert config.rewards == ["accuracy", "margin", "format"] and config.reward_weights == [1.0, 5.0, 0.2]
    assert config.prompt.evidence == 5 and config.scale_rewards == "batch" and config.balance


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft_run: x\n", "no key 'rewards'"),
        ("rewards: [accuracy]\nscale_reward: none\n", "did you mean 'scale_rewards'"),
        ("rewards: [accuracy]\nrewards: [format]\n", "key 'rewards' is given twice"),
        ("rewards: [accuracy]\nbalance: 'maybe'\n", "balance is 'maybe'; write true or false"),
        ("rewards: [accuracy]\nlemmas: 1\n", "lemmas is 1; write true or false"),
        ("rewards: [accuracy]\nevidence: '5'\n", "evidence is '5'; write a whole number"),
        ("rewards: [accuracy]\nevidence: 5.5\n", "evidence is 5.5; write a whole number"),
        ("rewards: [accuracy]\nevidence: true\n", "evidence is True; write a whole number"),
        ("rewards: [accuracy]\nsplit: 3\n", "split is 3; write text"),
        ("rewards: [accuracy]\nscale_rewards: bananas\n", "scale_rewards: 'bananas' is unknown; use group, batch"),
    ],
)
def test_a_configuration_without_rewards_or_with_a_wrong_key_or_value_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_reward_config(str(tmp_path / "c.yaml"))


def test_a_key_left_empty_has_its_default_and_sums_of_scaled_rewards_are_scaled_by_group(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rewards: [accuracy]\ndata: null\nsplit: null\nscale_rewards: false\n")
    config = read_reward_config(str(path))
    assert (config.data, config.split, config.scale_rewards) == (None, "official", False)
    path.write_text("sft_run: x\nrewards: [accuracy]\nscale_rewards: none\n"
                    "multi_objective_aggregation: normalize_then_sum\n")  # fmt: skip
    assert read_reward_config(str(path)).scale_rewards == "group"


@pytest.mark.parametrize("beside", [True, False])
def test_files_are_looked_for_beside_the_configuration_then_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    monkeypatch.chdir(here)
    files = there if beside else here
    corpus = open_corpus("sample")
    (files / "own.py").write_text("def one(completions, **columns):\n    return [1.0] * len(completions)\n")
    corpus.neighbour_forecast(corpus.train).to_parquet(files / "table.parquet")
    (there / "c.yaml").write_text(
        "rewards:\n  - own.py:one\n  - {name: accuracy, parameters: {verifier: {kind: soft, table: table.parquet}}}\n"
    )
    config = read_reward_config("../there/c.yaml")
    assert len(config.compose(corpus.train, corpus).components) == 2
    (files / "own.py").unlink()
    with pytest.raises(InputError, match="own.py"):
        config.compose(corpus.train, corpus)


def test_a_check_that_nothing_passes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("def none(completions, **columns):\n    return [None] * len(completions)\n")
    with pytest.raises(CheckError, match="judges no"):
        check_config(read_reward_config(f"{tmp_path}/none.py:none"), "sample", rows=30)

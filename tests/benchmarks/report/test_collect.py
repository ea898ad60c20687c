"""Run folders become systems: seeds of one name are one system, items are held against each other, completions stay."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.imported import import_run
from benchmarks.evaluation.predictions import COLUMNS, read_predictions, write_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import (
    PREDICTIONS,
    EvalArguments,
    select_test_items,
)
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.keys import from_keys, to_keys
from benchmarks.report import collect
from benchmarks.report import page as report_page
from benchmarks.report.collect import data_funnel, describe, describe_training, report_runs
from benchmarks.report.systems import group_by_name, merge_seeds, read_runs, same_items
from benchmarks.runs import open_run
from benchmarks.statistics.significance import compare
from rewards import LABELS, InputError, Label

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """Leave figures undrawn in the reports that the module shares, too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(report_page, "draw", lambda panel, figure: "")
        yield


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture
def make_run(sample: Corpus, tmp_path: Path) -> MakeRun:
    """Return a function that writes a finished evaluation with random answers and returns its folder."""
    return partial(write_run, sample, tmp_path)


def write_run(
    sample: Corpus,
    parent: Path,
    name: str,
    seed: int = 0,
    items: pd.DataFrame | None = None,
    model: str = "tiny",
    folder: str = "",
    trained: int | None = 96,
    items_per_line: int = 0,
    **keys: Any,
) -> Path:
    items = sample.test if items is None else items
    path = parent / (folder or f"{name}-{seed}")
    of_run = {"output_dir": str(path), "model": model, "name": name, "data": "sample", "training_seed": seed}
    arguments = from_keys(EvalArguments, {**of_run, "items": items_per_line, **keys}, "arguments")
    protocol = replace(arguments.protocol, data=sample.digest)
    rng = np.random.default_rng([seed, len(name)])
    prob = rng.dirichlet([1, 1, 1], len(items))
    answer = np.array([str(label) for label in LABELS], dtype=object)[prob.argmax(axis=1)]
    frame = items[["item_id", "cell_line", "pert", "gene", "label"]].astype("str").reset_index(drop=True)
    frame = frame.assign(
        sample=0, seed=seed, completion=[f"{name} {seed} {item}" for item in frame["item_id"]], answer=answer,
        status="answered", p_up=prob[:, 0], p_down=prob[:, 1], p_none=prob[:, 2], completion_tokens=9,
        finish_reason="stop",
    )  # fmt: skip
    run = open_run(path, "eval", to_keys(arguments))
    facts = {
        "protocol": json.loads(protocol.canonical_json()),
        "protocol_fingerprint": protocol.fingerprint,
        "engine": {"name": "none", "model": model, "adapter_sha256": f"{name}{seed}"},
        "seed": seed,
        "run": {"trained_items": trained},
    }
    write_predictions(frame.reindex(columns=COLUMNS), path / PREDICTIONS, facts)
    run.finish(name=name)
    return path


@pytest.fixture(scope="module")
def seeds(sample: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a base model and on two others of two training runs each, beside its runs."""
    folder = tmp_path_factory.mktemp("seeds")
    order = [("base", 0), ("SFT", 0), ("GRPO", 0), ("SFT", 1), ("GRPO", 1)]
    paths = [write_run(sample, folder, name, seed) for name, seed in order]
    report_runs(paths, folder / "out", title="t", command="c")
    return folder


def load(path: Path) -> Any:
    return json.loads((path / "report.json").read_text(encoding="utf-8"))


def test_seeds_of_one_name_are_one_system_of_the_report(seeds: Path) -> None:
    report = load(seeds / "out")
    models = [name for name, system in report["systems"].items() if system["kind"] == "model"]
    assert models == ["base", "SFT", "GRPO"]
    assert [report["systems"][name]["seeds"] for name in models] == [[0], [0, 1], [0, 1]]
    assert report["systems"]["SFT"]["metrics"]["three_class"]["all"]["accuracy"]["n"] == 310
    assert report["systems"]["SFT"]["facts"]["engine"]["adapter_sha256"] == {"seed 0": "SFT0", "seed 1": "SFT1"}
    assert report["systems"]["SFT"]["facts"]["engine"]["model"] == "tiny"
    assert report["warnings"] == []
    assert len(report["systems"]["SFT"]["strata"]["de"]) > 2
    assert report["published"] == []  # the sample's scores do not compare
    pair = next(c for c in report["comparisons"] if (c["a"], c["b"], c["metric"]) == ("GRPO", "SFT", "accuracy"))
    assert pair["n_seeds"] == 2


def test_the_value_of_a_merged_system_is_the_mean_over_its_seeds(seeds: Path) -> None:
    runs = [read_predictions(seeds / f"SFT-{seed}" / PREDICTIONS) for seed in (0, 1)]
    one, two = (float((run["answer"] == run["label"]).mean()) for run in runs)
    assert one != two
    both = load(seeds / "out")["systems"]["SFT"]["metrics"]["three_class"]["all"]["accuracy"]
    assert both["value"] == pytest.approx((one + two) / 2)


def test_completions_stay_on_disk_and_are_read_for_the_items_asked(make_run: MakeRun, sample: Corpus) -> None:
    runs, _ = read_runs([make_run("SFT", 0), make_run("SFT", 1)])
    system = merge_seeds("SFT", runs)
    assert "completion" not in system.predictions
    assert len(system.predictions) == 2 * len(sample.test)
    ids = list(sample.test["item_id"].iloc[[5, 2]])
    assert system.completions is not None
    read = system.completions(ids)
    assert sorted(read["completion"]) == sorted(f"SFT {seed} {item}" for seed in (0, 1) for item in ids)


def test_the_report_shows_completions_of_merged_runs(seeds: Path) -> None:
    text = (seeds / "out" / "report.html").read_text(encoding="utf-8")
    assert "SFT 0 " in text or "SFT 1 " in text


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({}, {}, "hold training seed 0"),
        ({}, {"seed": 1, "max_tokens": 9}, r"different protocols \(max_tokens\)"),
        ({}, {"seed": 1, "model": "other"}, r"another model \(tiny, other\)"),
    ],
)
def test_runs_that_are_not_seeds_of_one_system_are_refused(
    make_run: MakeRun, first: dict[str, Any], second: dict[str, Any], problem: str
) -> None:
    paths = [make_run("SFT", folder="a", **first), make_run("SFT", folder="b", **second)]
    runs, _ = read_runs(paths)
    with pytest.raises(InputError, match=rf"a and \S*b: both are called 'SFT'.*{problem}"):
        group_by_name(runs)


def test_other_items_are_an_error_unless_the_common_ones_are_asked_for(
    make_run: MakeRun, sample: Corpus, tmp_path: Path
) -> None:
    paths = [make_run("base"), make_run("SFT", items=sample.test.iloc[12:]), make_run("SFT", 1)]
    with pytest.raises(InputError, match=r"seed 0 lacks|'SFT' lacks"):
        report_runs(paths, tmp_path / "out", title="t", command="c")
    with pytest.raises(
        InputError, match=r"'SFT' lacks 12 items that 'base' has .*first: \S+\|\S+\|.*--common.*--pairwise"
    ):
        report_runs(paths[:2], tmp_path / "out", title="t", command="c")
    with pytest.raises(InputError, match=r"'SFT' lacks 12 items that 'base' has"):
        report_runs(paths[1::-1], tmp_path / "out", title="t", command="c")
    assert not (tmp_path / "out").exists()
    report_runs(paths, tmp_path / "out", title="t", command="c", common=True)
    report = load(tmp_path / "out")
    for name in ("base", "SFT", "majority class"):
        assert report["systems"][name]["metrics"]["three_class"]["all"]["accuracy"]["n"] == 298
    assert report["warnings"] == [
        "Only the 298 items that every system has are scored. Items left out: base 12 of 310, SFT 12 of 310."
    ]


def test_each_pair_on_its_own_items(make_run: MakeRun, sample: Corpus, tmp_path: Path) -> None:
    """The demo: the base model is asked the first items of the draw that the others are asked all of."""
    few = select_test_items(sample, Protocol(items=6, data=sample.digest))
    paths = [make_run("base", items=few, items_per_line=6), make_run("SFT"), make_run("SFT", 1)]
    report_runs(paths, tmp_path / "out", title="t", command="synthpert report --pairwise", pairwise=True)
    report = load(tmp_path / "out")
    n = {name: one["metrics"]["three_class"]["all"]["accuracy"]["n"] for name, one in report["systems"].items()}
    assert n.pop("base") == report["systems"]["base"]["n_items"] == 24
    assert set(n.values()) == {310} and "majority class" in n
    assert report["evaluated"][-1]["items"] == 310
    assert [row["rows"] for row in report["data"]["funnel"] if row["step"] == "test items evaluated"] == [310]
    for one in report["comparisons"]:
        assert one["n_missing"] == (286 if "base" in (one["a"], one["b"]) else 0)
    pair = next(one for one in report["comparisons"] if (one["a"], one["b"], one["metric"]) == ("SFT", "base", "mcc"))
    frames = [merge_seeds(name, runs).predictions for name, runs in group_by_name(read_runs(paths)[0]).items()]
    alone = compare(frames[1], frames[0], "mcc", missing="drop")
    assert (pair["difference"], pair["p_value"]) == pytest.approx((alone.difference, alone.p_value))
    assert report["protocol"]["items"] == {"base": 6, "SFT": 0} and report["protocol"]["item_seed"] == 0
    assert not any("protocol" in warning for warning in report["warnings"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "24 of 310 items" in page and "synthpert report --pairwise" in page


def test_equal_items_give_one_report_with_and_without_pairs_of_their_own(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("base"), make_run("SFT", 0), make_run("SFT", 1)]
    for name, pairwise in (("without", False), ("with", True)):
        report_runs(paths, tmp_path / name, title="t", command="c", pairwise=pairwise)
    for file in ("report.json", "report.html", "report.md", "report.csv", "comparisons.csv"):
        assert (tmp_path / "without" / file).read_bytes() == (tmp_path / "with" / file).read_bytes()


def test_common_items_and_pairs_of_their_own_exclude_each_other(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--common and --pairwise"):
        report_runs([make_run("base")], tmp_path / "out", title="t", command="c", common=True, pairwise=True)
    assert not (tmp_path / "out").exists()


def test_systems_without_a_common_item_are_refused(make_run: MakeRun, sample: Corpus) -> None:
    runs, _ = read_runs([make_run("A", items=sample.test.iloc[:9]), make_run("B", items=sample.test.iloc[9:])])
    systems = [merge_seeds(run.name, [run]) for run in runs]
    with pytest.raises(InputError, match="no item in common"):
        same_items(systems, common=True)


def test_an_imported_system_stands_beside_a_model_and_is_flagged(
    make_run: MakeRun, sample: Corpus, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.csv"
    rows = sample.test[["cell_line", "pert", "gene"]].astype("str")
    rows.assign(p_de=np.linspace(0, 1, len(rows))).to_csv(file, index=False)
    imported = import_run([str(file)], tmp_path / "imported", name="theirs", data="sample")
    report_runs([make_run("base"), imported], tmp_path / "out", title="t", command="c")
    report = load(tmp_path / "out")
    metrics = report["systems"]["theirs"]["metrics"]
    assert metrics["de"]["all"]["de_auroc"]["value"] is not None
    for task, metric in (("three_class", "accuracy"), ("dir", "dir_auroc")):  # it says nothing of direction
        assert metrics[task]["all"][metric]["value"] is None
        assert "answers de only" in metrics[task]["all"][metric]["reason"]
    assert any("theirs" in warning and "fingerprint" in warning for warning in report["warnings"])
    assert report["protocol"]["max_tokens"] == 1024  # the model's, whichever comes first


def test_beside_models_asked_for_the_direction_the_baselines_answer_it(
    make_run: MakeRun, sample: Corpus, tmp_path: Path
) -> None:
    changed = sample.test[sample.test["label"] != str(Label.NONE)]
    report_runs([make_run("base", items=changed, template="direction")], tmp_path / "out", title="t", command="c")
    report = load(tmp_path / "out")
    assert (report["task"], report["primary"]) == ("dir", "dir_per_gene_auroc")
    shortcuts = {name: one["metrics"]["dir"]["all"] for name, one in report["systems"].items() if name != "base"}
    counts = sample.train_counts
    commoner = max((Label.UP, Label.DOWN), key=lambda label: counts[label])
    share = float((changed["label"] == str(commoner)).mean())
    for name in ("majority class", "class prior"):
        assert shortcuts[name]["dir_accuracy"]["value"] == pytest.approx(share)
        assert shortcuts[name]["dir_balanced_accuracy"]["value"] == pytest.approx(0.5)
    notes = " ".join(report["data"]["notes"])
    assert "The models answer up or down, and so do the shortcuts" in notes
    assert "shares of up and down" in notes and "balanced accuracy or F1" not in notes


def test_beside_an_imported_system_that_tells_change_alone_so_do_the_baselines(sample: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    rows = sample.test[["cell_line", "pert", "gene"]].astype("str")
    rows.assign(p_de=np.linspace(0, 1, len(rows))).to_csv(file, index=False)
    imported = import_run([str(file)], tmp_path / "imported", name="theirs", data="sample")
    systems, told = collect.collect_runs([imported], command="c")
    assert "The models answer whether expression changes, and so do the shortcuts" in " ".join(told["data"]["notes"])
    for system in systems[1:]:
        frame = system.predictions
        changes = frame["p_up"] + frame["p_down"] >= frame["p_none"]
        assert ((frame["answer"] != str(Label.NONE)) == changes).all(), system.name


def test_a_report_is_not_written_among_the_files_of_a_run(make_run: MakeRun) -> None:
    run = make_run("a")
    before = sorted(run.rglob("*"))
    with pytest.raises(InputError, match="holds a run"):
        report_runs([run], run, title="t", command="c")
    assert sorted(run.rglob("*")) == before


def test_unfinished_and_foreign_folders_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    open_run(tmp_path / "begun", "eval", {})
    with pytest.raises(InputError, match="begun: the eval run is not finished"):
        read_runs([tmp_path / "begun"])
    open_run(tmp_path / "sft", "sft", {}).finish()
    with pytest.raises(InputError, match="no evaluation among the runs"):
        report_runs([tmp_path / "sft"], tmp_path / "out", title="t", command="c")
    with pytest.raises(InputError, match="no run folder"):
        read_runs([tmp_path / "none"])
    make_run("base")
    other = open_run(tmp_path / "other", "eval", {"data": None, "split": "holdout:rpe1", "training_seed": 0})
    write_predictions(pd.DataFrame({name: [] for name in COLUMNS}), other.path / PREDICTIONS, {})
    other.finish(name="other")
    with pytest.raises(InputError, match=r"different data .*holdout:rpe1.*sample under official"):
        report_runs([tmp_path / "base-0", other.path], tmp_path / "out", title="t", command="c")


def test_the_funnel_says_how_many_of_how_many(sample: Corpus) -> None:
    n_train = len(sample.train)
    sft = {"stage": "sft", "traces": {"rows": 200, "used": 4, "wrong_answers": 1}}
    stages: list[dict[str, Any]] = [
        {**sft, "run": "two-percent/0"},
        {**sft, "run": "two-percent/1"},
        {"stage": "sft", "run": "old", "traces": {"rows": 100}},
        {"stage": "grpo", "run": "grpo", "prompts": {"items": 50}},
    ]
    rows = data_funnel(sample, 31, stages)
    found = [(row["step"], row["rows"], row["of"], row["share"], row["run"]) for row in rows]
    of_train = f"{n_train:,} training items"
    assert found[2:] == [
        ("test items evaluated", 31, "310 test items", 0.1, ""),
        ("traces in the file", 200, of_train, round(200 / n_train, 4), "two-percent/0 and 1 more"),
        ("traces used for SFT", 4, "200 traces in the file", 0.02, "two-percent/0 and 1 more"),
        ("traces used for SFT", 4, of_train, 0.002, "two-percent/0 and 1 more"),
        ("traces used for SFT with a wrong answer", 1, "4 traces used for SFT", 0.25, "two-percent/0 and 1 more"),
        ("traces in the file", 100, of_train, round(100 / n_train, 4), "old"),
        ("traces used for SFT", 100, "100 traces in the file", 1.0, "old"),
        ("traces used for SFT", 100, of_train, round(100 / n_train, 4), "old"),
        ("prompts of GRPO", 50, of_train, round(50 / n_train, 4), "grpo"),
    ]


def test_the_report_says_whose_training_items_are_known(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("SFT", trained=1234), make_run("theirs", trained=None)]
    evaluations, _ = read_runs(runs)
    unseen, unknown = describe_training(evaluations)
    assert [sentence.split(":")[0] for sentence in (*unseen, *unknown)] == ["SFT", "theirs"]
    assert "none of the 1,234 items" in unseen[0]
    report_runs(runs, tmp_path / "report", title="t", command="c")
    for page in ("report.html", "report.md"):
        text = (tmp_path / "report" / page).read_text()
        assert "theirs: nothing beside its adapter says" in text
        assert "SFT: none of the 1,234 items" in text


def test_the_funnel_counts_the_prompts_that_were_asked(sample: Corpus) -> None:
    for prompts, rows in (({"items": 6}, 6), ({"items": 6, "asked": 4}, 4)):
        stage = {"stage": "grpo", "run": "r", "prompts": prompts}
        assert [step["rows"] for step in data_funnel(sample, 1, [stage]) if step["step"] == "prompts of GRPO"] == [rows]


@pytest.mark.parametrize("data", ["labels", "gone/labels"])
def test_the_labels_of_a_run_are_found_from_anywhere(
    make_run: MakeRun, sample: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    """`labels` lies where the evaluation ran, above the run; what an old path named lies in SYNTHPERT_DATA."""
    opened: list[str] = []

    def open_here(source: Path, split: str) -> Corpus:
        opened.append(str(source))
        return replace(sample, split=split)

    monkeypatch.setattr(collect, "open_corpus", open_here)
    run = make_run("a", folder="runs/a", data=data)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ((evaluation,), _) = read_runs([run])
    monkeypatch.setenv("SYNTHPERT_DATA", str(tmp_path / "none"))
    with pytest.raises(
        InputError, match=r"evaluated on, .*labels, are neither in the working directory.*none; set SYNTHPERT_DATA"
    ):
        collect._find_corpus(evaluation)
    there = tmp_path / ("labels" if data == "labels" else "by-default")
    there.mkdir()
    if data != "labels":
        monkeypatch.setenv("SYNTHPERT_DATA", str(there))
    assert collect._find_corpus(evaluation).digest == sample.digest
    assert opened == [str(there)]
    other = replace(evaluation, facts={**evaluation.facts, "protocol": {"data": "of other labels"}})
    with pytest.raises(InputError, match="set SYNTHPERT_DATA"):
        collect._find_corpus(other)


def test_labels_that_a_run_does_not_name_must_be_those_that_it_was_evaluated_on(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((evaluation,), _) = read_runs([make_run("a", data=None)])
    monkeypatch.setenv("SYNTHPERT_DATA", "sample")
    assert collect._find_corpus(evaluation).is_sample
    table = tmp_path / "mine.csv"
    table.write_text("pert,gene,label,split\nA,G,upregulated,train\nB,G,downregulated,test\n")
    monkeypatch.setenv("SYNTHPERT_DATA", str(table))
    with pytest.raises(
        InputError, match=r"was evaluated on other labels than those of .*mine\.csv; set SYNTHPERT_DATA"
    ):
        collect._find_corpus(evaluation)
    manifest = json.loads((evaluation.path / "manifest.json").read_text())
    (evaluation.path / "manifest.json").write_text(json.dumps(manifest | {"screen": {"name": "Their screen"}}))
    with pytest.raises(InputError, match=r"mine\.csv \(on Their screen\); set"):
        collect._find_corpus(evaluation)


def test_a_table_that_moved_or_changed_since_the_evaluation_is_told_apart(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for by its name in the working directory and above the run, also where its whole path was given."""
    rows = ["pert,gene,label,split", "A,G,up,train", "B,G,down,test"]
    table, described = tmp_path / "screen.csv", tmp_path / "screen.yaml"
    table.write_text("\n".join(rows))
    described.write_text("file: screen.csv\nlabels: {up: upregulated, down: downregulated}\n")
    digest = open_corpus(described).digest
    away = tmp_path / "away"  # neither where the report runs nor above the run
    away.mkdir()
    for data in ("screen.yaml", str(described)):
        run = make_run("a", folder=f"runs/{len(data)}", data=data)
        ((evaluation,), _) = read_runs([run])
        evaluation = replace(evaluation, facts={**evaluation.facts, "protocol": {"data": digest}})
        assert collect._find_corpus(evaluation).digest == digest
        for file in (table, described):
            file.rename(away / file.name)
        with pytest.raises(InputError, match=r"screen\.yaml, are neither in the working directory nor in a folder ab"):
            collect._find_corpus(evaluation)
        with monkeypatch.context() as there:
            there.chdir(away)
            assert collect._find_corpus(evaluation).digest == digest
        for file in (table, described):
            (away / file.name).rename(file)
    table.rename(tmp_path / "other.csv")
    with pytest.raises(InputError, match=r"screen\.csv: no such file, but .*screen\.yaml names it"):
        collect._find_corpus(evaluation)
    table.write_text("\n".join(rows).replace("B,G,down", "B,G,up"))
    with pytest.raises(InputError, match=r"was evaluated on other labels than .*screen\.yaml has now; bring them back"):
        collect._find_corpus(evaluation)
    later = replace(evaluation, facts={**evaluation.facts, "protocol": {"data": "changed"}})
    with pytest.raises(InputError, match="the labels have changed in between, so evaluate all on the same"):
        collect._refuse_unless_one_source([evaluation, later])


def test_the_same_data_in_two_folders_is_one_source(make_run: MakeRun) -> None:
    runs = [make_run("a", data="x/labels"), make_run("b", data="y/labels")]
    evaluations, _ = read_runs(runs)
    assert len({run.source for run in evaluations}) == 2
    collect._refuse_unless_one_source(evaluations)
    other = replace(evaluations[1], facts={**evaluations[1].facts, "protocol": {"data": "others"}})
    with pytest.raises(InputError, match="evaluated on different data"):
        collect._refuse_unless_one_source([evaluations[0], other])


@pytest.mark.parametrize("source", ["sample", "elsewhere"])
def test_items_that_were_drawn_by_label_are_said_to_have_other_shares(sample: Corpus, source: str) -> None:
    corpus = replace(sample, source=source)
    plain, balanced = (describe(corpus, corpus.test, "", balanced=one)["notes"] for one in (False, True))
    (told,) = [note for note in balanced if "label shares, with which" in note]
    assert (told in plain) == corpus.is_sample

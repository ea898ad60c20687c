"""Scores from real logs of inspect, lm-eval and verifiers (`tools/make_harness_logs.py` made them), and from tables."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import synthpert

from benchmarks import compare_scores
from benchmarks.comparison.command import run_comparison
from benchmarks.comparison.page import as_json, as_text, write_comparison
from benchmarks.comparison.read import Keys, name_systems, read_scores
from rewards import InputError
from tools.make_harness_logs import CUT_OFF, EPOCHS, FAILS, N_ITEMS, answer, item

LOGS = Path(__file__).parent / "logs"
BOTH = ("pert", "gene")


def by_rule(system: str, epochs: int, failing: int | None = None) -> pd.DataFrame:
    """What the script's rule says that a log must hold."""
    rows = []
    for at in range(N_ITEMS):
        for epoch in range(1, epochs + 1):
            right = float(answer(system, at, epoch) == item(at)["answer"])
            asked = {key: item(at)[key] for key in BOTH}
            rows.append({"item_id": item(at)["id"], "score": np.nan if at == failing else right, **asked})
    return pd.DataFrame(rows)


def totals(frame: pd.DataFrame) -> dict[str, tuple[float, int, str, str]]:
    """Sum of scores, rows and clusters of each item."""
    groups = frame.groupby("item_id", observed=True)
    return {
        str(name): (float(one["score"].sum()), len(one), str(one["pert"].iloc[0]), str(one["gene"].iloc[0]))
        for name, one in groups
    }


@pytest.mark.parametrize("system", ["a", "b"])
def test_a_log_of_inspect_is_read_as_it_was_made(system: str) -> None:
    found = read_scores(LOGS / f"inspect-{system}.eval", Keys(score="exact", clusters=BOTH))
    assert (found.source, found.notes) == ("inspect", [])
    assert totals(found.frame) == totals(by_rule(system, EPOCHS[system], FAILS))
    assert set(found.frame.loc[found.frame["item_id"] == f"i{FAILS}", "outcome"]) == {"unscorable"}
    assert found.frame["outcome"].value_counts().to_dict() == {
        "complete": (N_ITEMS - 2) * EPOCHS[system],
        "unscorable": EPOCHS[system],
        "incomplete": EPOCHS[system],
    }
    assert set(found.frame.loc[found.frame["outcome"] == "incomplete", "item_id"]) == {f"i{CUT_OFF}"}


def test_a_log_of_inspect_has_the_mean_that_inspect_gives() -> None:
    from benchmarks.comparison.inspect_logs import read_entry

    path = LOGS / "inspect-a.eval"
    with zipfile.ZipFile(path) as archive:
        header = json.loads(read_entry(path, archive, "header.json"))
    theirs = header["results"]["scores"][0]["metrics"]["mean"]["value"]
    found = compare_scores(*(read_scores(path, Keys(score="exact")).frame for _ in range(2)))
    assert found.value_a == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("system", ["a", "b"])
def test_a_log_of_lm_eval_is_read_as_it_was_made(system: str) -> None:
    found = read_scores(LOGS / f"lm-eval-{system}.jsonl", Keys(item="id", score="acc", clusters=BOTH))
    assert found.source == "lm-eval"
    assert totals(found.frame) == totals(by_rule(system, 1))
    ids = read_scores(LOGS / f"lm-eval-{system}.jsonl", Keys(score="acc")).frame["item_id"]
    assert list(ids) == [str(at) for at in range(N_ITEMS)]


@pytest.mark.parametrize("system", ["a", "b"])
def test_a_log_of_verifiers_is_read_as_it_was_made(system: str) -> None:
    found = read_scores(LOGS / f"verifiers-{system}.jsonl", Keys(score="reward", clusters=BOTH))
    assert found.source == "verifiers"
    assert totals(found.frame) == totals(by_rule(system, EPOCHS[system], FAILS))
    by_outcome = found.frame.groupby("outcome", observed=True)["item_id"].unique()
    assert list(by_outcome["unscorable"]) == [f"i{FAILS}"]
    assert list(by_outcome["incomplete"]) == [f"i{CUT_OFF}"]


def test_logs_of_two_harnesses_are_compared_by_item() -> None:
    a = read_scores(LOGS / "inspect-a.eval", Keys(score="exact", clusters=BOTH)).frame
    b = read_scores(LOGS / "verifiers-b.jsonl", Keys(score="reward", clusters=BOTH)).frame
    found = compare_scores(a, b, BOTH)
    expected = compare_scores(by_rule("a", 2, FAILS), by_rule("b", 1, FAILS), BOTH)
    assert found == expected
    assert (found.n_items, found.n_unscorable) == (N_ITEMS - 1, 1)


def test_a_log_with_several_scores_asks_for_one() -> None:
    with pytest.raises(InputError, match="several scores; choose with --score one of exact, includes"):
        read_scores(LOGS / "inspect-a.eval", Keys())
    with pytest.raises(InputError, match="no score 'f1'; choose with --score one of acc, acc_norm"):
        read_scores(LOGS / "lm-eval-a.jsonl", Keys(score="f1"))


def test_a_key_that_a_log_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"sample i0, epoch 1: no 'document'; the sample has pert, gene, id, epoch"):
        read_scores(LOGS / "inspect-a.eval", Keys(score="exact", clusters=("document",)))


def test_an_older_log_of_inspect_with_deflate_and_without_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.eval"
    samples = [
        {"id": 1, "epoch": 1, "input": "q", "scores": {"s": {"value": {"x": 0.5, "y": "I"}}}, "limit": "token"},
        {"id": 2, "epoch": 1, "input": "r", "scores": {"s": {"value": {"x": None, "y": "P"}}}},
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", "{}")
        for at, one in enumerate(samples, start=1):
            archive.writestr(f"_journal/summaries/{at}.json", json.dumps([one]))
    found = read_scores(path, Keys(score="s.x"))
    assert list(found.frame["outcome"]) == ["incomplete", "unscorable"]
    assert "did not end" in found.notes[0]
    assert list(read_scores(path, Keys(score="s.y")).frame["score"]) == [0, 0.5]


def test_what_is_no_log_of_inspect_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.eval"
    path.write_bytes((LOGS / "inspect-a.eval").read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read as a log of inspect"):
        read_scores(path, Keys())


def test_results_of_older_verifiers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [
        {"example_id": 0, "reward": 1.0, "metrics": {"f": 0.5}, "info": {"doc": "x"}, "is_truncated": True},
        {"example_id": 1, "reward": 0.0, "metrics": {"f": 0.2}, "info": {"doc": "y"}, "error": "timeout"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    frame = read_scores(path, Keys(score="reward", clusters=("doc",))).frame
    assert list(frame["outcome"]) == ["incomplete", "unscorable"]
    assert list(frame["doc"]) == ["x", "y"]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_table_of_any_kind_gives_the_same_scores(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"n": [1, 2, 3, 4], "value": [0.5, None, 1, 0], "state": ["ok", "ok", "length", "error"], "doc": [7, 7, 8, 8]}
    )
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    found = read_scores(path, Keys("n", "value", None, "state", ("doc",))).frame
    assert list(found["item_id"]) == ["1", "2", "3", "4"]
    assert list(found["doc"]) == ["7", "7", "8", "8"]
    assert list(found["score"].fillna(-1)) == [0.5, -1, 1, 0]
    assert list(found["outcome"]) == ["complete", "complete", "incomplete", "unscorable"]


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("id,score\n1,1\n", Keys(), r"no column 'item_id' \(--id\); it has 'id', 'score'"),
        ("item_id,score\n1,good\n", Keys(), r"row 2: score is 'good': write a number"),
        ("item_id,score\n,1\n", Keys(), r"row 2: item_id is .*: fill it in"),
        ("item_id,score\n1,1\n", Keys(clusters=("doc",)), r"no column 'doc' \(--cluster\)"),
    ],
)
def test_a_bad_table_is_refused_by_row_and_column(text: str, keys: Keys, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(path, keys)


def test_words_for_right_and_wrong_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("item_id,score\n1,True\n2,no\n3,C\n4,P\n5,\n")
    assert list(read_scores(path, Keys()).frame["score"].fillna(-1)) == [1, 0, 1, 0.5, -1]


def tables(folder: Path, n: int = 200) -> dict[str, Path]:
    rng = np.random.default_rng(1)
    base = pd.DataFrame(
        {
            "item_id": [f"i{at}" for at in range(n)],
            "pert": [f"P{at % 25}" for at in range(n)],
            "gene": [f"G{at % 40}" for at in range(n)],
        }
    )
    paths = {name: folder / f"{name}.csv" for name in "abc"}
    for name, path in paths.items():
        base.assign(score=rng.normal(loc=name == "b", size=n)).to_csv(path, index=False)
    return paths


def test_files_of_one_name_are_training_runs_of_one_system(tmp_path: Path) -> None:
    a, b, c = map(str, tables(tmp_path).values())
    compared = run_comparison([f"x={a}", f"x={c}", f"y={b}"], Keys(clusters=BOTH))
    (found,) = compared.comparisons
    assert (found.a, found.b, found.n_seeds) == ("x", "y", 2)
    assert "the single run's training variance unknown" in found.test
    assert compared.systems["x"].seeds == (0, 1)


def test_the_command_prints_what_python_finds(tmp_path: Path) -> None:
    paths = tables(tmp_path)
    done = synthpert(
        "compare", str(paths["a"]), str(paths["b"]), "--cluster", "pert", "--cluster", "gene", "--json", cwd=tmp_path
    )
    printed = json.loads(done.stdout)
    found = compare_scores(*(pd.read_csv(paths[name]) for name in "ab"), BOTH)
    for key in ("difference", "low", "high", "p_value", "se", "df", "n_items", "clusters"):
        assert printed[key] == pytest.approx(getattr(found, key)), key
    assert printed["comparisons"][0]["difference"] == printed["difference"]


def test_a_pattern_takes_all_its_files_as_runs_or_as_systems(tmp_path: Path) -> None:
    paths = tables(tmp_path)
    assert name_systems([f"x={tmp_path}/[ac].csv", f"y={paths['b']}"]) == {
        "x": [paths["a"], paths["c"]],
        "y": [paths["b"]],
    }
    assert name_systems([f"{tmp_path}/*.csv"]) == {name: [path] for name, path in paths.items()}
    odd = tmp_path / "a=[1].csv"
    odd.write_bytes(paths["a"].read_bytes())
    assert name_systems([str(odd), str(paths["b"])]) == {"a=[1]": [odd], "b": [paths["b"]]}
    with pytest.raises(InputError, match=r"x\*\.csv: no file matches"):
        name_systems([f"x={tmp_path}/x*.csv"])


def test_one_file_for_two_systems_is_pointed_out_and_twice_without_a_name_refused(tmp_path: Path) -> None:
    paths = tables(tmp_path)
    copy = tmp_path / "copy.csv"
    copy.write_bytes(paths["a"].read_bytes())
    compared = run_comparison([f"x={paths['a']}", f"y={copy}", f"z={paths['b']}"], Keys(clusters=BOTH))
    assert [note for note in compared.notes if "same content" in note] == [
        f"x ({paths['a']}) and y ({copy}) have the same content; check that each is the file of its own system"
    ]
    assert "x minus y: 0.000, no item differs\n" in as_text(compared)
    with pytest.raises(InputError, match=r"a\.csv: given twice"):
        run_comparison([str(paths["a"])] * 2, Keys())
    with pytest.raises(InputError, match=r"1 system to compare \(x\); give two"):
        run_comparison([f"x={paths['a']}", f"x={paths['b']}"], Keys())


def test_scores_that_are_all_one_number_are_pointed_out(tmp_path: Path) -> None:
    words = []
    for name, score in {"a": 0.0, "b": 0.0, "c": 1.0}.items():
        path = tmp_path / f"{name}.csv"
        pd.DataFrame({"item_id": range(30), "score": score, "of": name}).to_csv(path, index=False)
        words.append(str(path))
    notes = run_comparison(words, Keys()).notes
    assert notes == ["Every score of a and of b is 0.000; look at some completions and at how they are scored"]


def test_few_clusters_are_said_above_the_result(tmp_path: Path) -> None:
    paths = tables(tmp_path, n=190)
    few = [str(paths[name]) for name in "ab"]
    frame = pd.read_csv(paths["a"])
    for name in "ab":
        frame.assign(score=pd.read_csv(paths[name])["score"], pert=[f"P{at % 12}" for at in range(190)]).to_csv(
            paths[name], index=False
        )
    (note,) = run_comparison(few, Keys(clusters=BOTH)).notes
    assert note.startswith("Only 12 values of pert: with fewer than 20, ")
    told = run_comparison(few, Keys(clusters=BOTH)).comparisons[0].test
    assert told.endswith("; fewer than 20 values of pert: the interval is itself uncertain")  # of gene there are enough
    assert run_comparison(few, Keys(clusters=("gene",))).notes == []


def test_an_id_that_merges_different_questions_is_pointed_out() -> None:
    (note,) = read_scores(LOGS / "inspect-a.eval", Keys(item="gene", score="exact")).notes
    found = {item(at)["gene"] for at in range(N_ITEMS)}
    assert "--id gene gives different questions the same name" in note and f"of {len(found)} names" in note
    assert read_scores(LOGS / "inspect-a.eval", Keys(item="id", score="exact")).notes == []
    assert read_scores(LOGS / "lm-eval-a.jsonl", Keys(item="id", score="acc")).notes == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = synthpert("compare", "absent.csv", "other.csv", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2 and "out: is a file" in done.stderr


def test_text_markdown_html_and_json_tell_all_pairs(tmp_path: Path) -> None:
    compared = run_comparison(list(map(str, tables(tmp_path).values())), Keys(clusters=BOTH), command="<x> & y")
    page = write_comparison(compared, tmp_path / "out")
    html, markdown = page.read_text(), page.with_suffix(".md").read_text()
    assert {path.name for path in page.parent.iterdir()} == {f"comparison.{kind}" for kind in ("html", "md", "json")}
    for one in compared.comparisons:
        for text in (as_text(compared), html, markdown):
            assert f"{one.a} minus {one.b}" in text
    assert "b scores higher" in as_text(compared) or "a scores lower" in as_text(compared)
    assert "&lt;x&gt; &amp; y" in html and "<x>" not in html
    pairs = json.loads(page.with_suffix(".json").read_text())["comparisons"]
    assert [(one["a"], one["b"]) for one in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_json_has_null_for_what_is_unknown(tmp_path: Path) -> None:
    paths = tables(tmp_path)
    frame = pd.read_csv(paths["a"]).assign(pert="P")
    for name in "ab":
        frame.assign(score=pd.read_csv(paths[name])["score"]).to_csv(paths[name], index=False)
    compared = run_comparison([str(paths["a"]), str(paths["b"])], Keys(clusters=("pert",)))
    told = json.loads(as_json(compared))
    assert told["p_value"] is None and "one pert" in told["test"]
    assert "not tested" in as_text(compared)

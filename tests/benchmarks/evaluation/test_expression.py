"""Tables of predicted changes: what becomes of one number a pair, the forms of a file, and what is missing."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from command import synthpert

from benchmarks.evaluation.imported import Imported, import_expression, read_expression
from benchmarks.evaluation.imported.expression import NO_GENE, NO_PERTURBATION, NO_VALUE, ScoredChanges
from benchmarks.evaluation.predictions import check_predictions, read_facts, read_predictions
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.runs import read_manifest
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
LINES, PERTS, GENES = ("k562", "rpe1"), ("AARS", "NA", "TP53", "1-Mar"), ("CALR", "NA", "2-Sep", "MYC", "RPL3")
# Two of five training items change.
TRAINED = [("rpe1", "T", gene, label) for gene, label in zip(GENES, (UP, DOWN, NONE, NONE, NONE), strict=True)]


def corpus_of(seed: int = 0) -> Corpus:
    """A corpus whose test items are all pairs of `PERTS` and `GENES` in two lines, with labels drawn by `seed`."""
    drawn = iter(np.random.default_rng(seed).choice([UP, DOWN, NONE], size=40))
    rows = [(line, pert, gene, str(next(drawn)), "test") for line in LINES for pert in PERTS for gene in GENES]
    frame = pd.DataFrame([*rows, *((*row, "train") for row in TRAINED)])
    frame.columns = pd.Index(["cell_line", "pert", "gene", "label", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return Corpus("labels", "official", frame)


CORPUS = corpus_of()
CHANGES = np.random.default_rng(1).normal(size=(len(PERTS), len(GENES)))
CHANGES[0, 0], CHANGES[1, 1], CHANGES[2, 2] = 0.0, -2.5, 2.5


def wide(values: npt.NDArray[Any] = CHANGES) -> pd.DataFrame:
    return pd.DataFrame(values, index=pd.Index(PERTS, name="pert"), columns=list(GENES))


def read(*files: str, corpus: Corpus = CORPUS, **options: Any) -> tuple[Imported, ScoredChanges]:
    imported, scored = read_expression(files, corpus, **options)
    check_predictions(imported.predictions)
    return imported, scored


def refusal(*files: str, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        read_expression(files, CORPUS, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def table_of(imported: Imported, column: str) -> npt.NDArray[Any]:
    """A column of the predictions of one line, perturbation x gene."""
    return np.asarray(imported.predictions[column]).reshape(len(PERTS), len(GENES))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "changes.csv"
    wide().to_csv(path)
    return f"rpe1={path}"


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_size_is_the_score_for_a_change_and_sign_the_direction(file: str) -> None:
    imported, scored = read(file)
    assert imported.tasks == ("three_class", "de", "dir")
    up, down, none = (table_of(imported, name) for name in ("p_up", "p_down", "p_none"))
    order = np.argsort(np.abs(CHANGES), axis=None, kind="stable")
    assert (np.diff(none.ravel()[order]) <= 0).all()
    known = CHANGES != 0
    np.testing.assert_array_equal((up > down)[known], (CHANGES > 0)[known])
    assert up[0, 0] == down[0, 0]
    order = np.argsort(CHANGES[known])
    assert (np.diff((up / (up + down))[known][order]) > 0).all()
    c = scored.smallest_change["rpe1"]
    np.testing.assert_allclose(1 - none, np.abs(CHANGES) / (np.abs(CHANGES) + c))


def test_scores_tie_only_where_the_table_does(file: str) -> None:
    none = table_of(read(file)[0], "p_none")
    sizes, scores = np.unique(np.abs(CHANGES)), np.unique(none)
    assert len(scores) == len(sizes) == CHANGES.size - 1
    assert none[1, 1] == none[2, 2]  # changes of -2.5 and 2.5


def test_the_share_of_changes_is_that_of_the_training_items(file: str) -> None:
    imported, scored = read(file)
    answer = table_of(imported, "answer")
    changed = answer != NONE
    assert changed.sum() == round(0.4 * CHANGES.size)
    assert np.abs(CHANGES)[changed].min() == scored.smallest_change["rpe1"] > np.abs(CHANGES)[~changed].max()
    np.testing.assert_array_equal(answer[changed] == UP, CHANGES[changed] > 0)
    assert len(imported.contradictions) == 0


def test_each_line_has_its_own_size(tmp_path: Path) -> None:
    wide().to_csv(tmp_path / "a.csv")
    wide(CHANGES * 1000).to_csv(tmp_path / "b.csv")
    imported, scored = read(f"k562={tmp_path / 'a.csv'}", f"rpe1={tmp_path / 'b.csv'}")
    assert scored.smallest_change["rpe1"] == pytest.approx(1000 * scored.smallest_change["k562"])
    a, b = np.split(imported.predictions["p_none"].to_numpy(), 2)
    np.testing.assert_allclose(a, b)
    assert imported.missing == 0


def test_no_test_label_has_a_part_in_it(file: str) -> None:
    columns = ["item_id", "answer", "p_up", "p_down", "p_none"]
    before, after = (read(file, corpus=corpus_of(seed))[0].predictions[columns] for seed in (0, 7))
    pd.testing.assert_frame_equal(before, after)


def test_auroc_is_that_of_the_table(file: str) -> None:
    arrays = prediction_arrays(read(file)[0].predictions)
    changed = np.array(arrays.label != LABELS.index(LABELS[-1]))
    size = np.abs(CHANGES).ravel()
    pairs = size[changed][:, None] - size[~changed][None, :]
    assert estimate(arrays, "de", "de_auroc").value == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_a_table_of_zeros_says_that_nothing_changes(tmp_path: Path) -> None:
    wide(np.zeros_like(CHANGES)).to_csv(tmp_path / "f.csv")
    imported, scored = read(f"rpe1={tmp_path / 'f.csv'}")
    assert set(imported.predictions["answer"]) == {NONE}
    assert scored.smallest_change == {}


def test_where_few_sizes_are_above_zero_only_these_change(tmp_path: Path) -> None:
    values = np.zeros_like(CHANGES)
    values[1, :2] = -1e-30, 3.0
    wide(values).to_csv(tmp_path / "f.csv")
    imported, _ = read(f"rpe1={tmp_path / 'f.csv'}")
    assert sorted(imported.predictions["answer"])[:3] == [DOWN, NONE, NONE]
    assert (imported.predictions["answer"] == UP).sum() == 1


# --- forms of a file --------------------------------------------------------------------------------------------------


def write_as(form: str, path: Path) -> dict[str, str]:
    """Write the changes in one of the forms, and return the columns to map."""
    table = wide()
    if form == "first column without a name":
        table.rename_axis(None).to_csv(path.with_suffix(".csv"))
    elif form == "perturbations last":
        table.reset_index()[[*GENES, "pert"]].to_csv(path.with_suffix(".csv"), index=False)
    elif form == "other name":
        table.rename_axis("condition").assign(n_cells=7).to_csv(path.with_suffix(".csv"))
        return {"pert": "condition"}
    elif form == "tab":
        table.assign(note="x").to_csv(path.with_suffix(".tsv"), sep="\t")
    elif form == "parquet":
        table.astype("float32").to_parquet(path.with_suffix(".parquet"))
    elif form == "categories":
        named = table.reset_index().astype({"pert": "category"})
        named.to_parquet(path.with_suffix(".parquet"), index=False)
    else:
        long = table.rename_axis(columns="gene").stack().rename("change").reset_index().sample(frac=1, random_state=0)
        if form == "long":
            long.to_csv(path.with_suffix(".csv"), index=False)
        else:
            long.rename(columns={"change": "log_fc"}).to_parquet(path.with_suffix(".parquet"), index=False)
            return {"change": "log_fc"}
    return {}


FORMS = ("first column without a name", "perturbations last", "other name", "tab", "parquet", "categories", "long",
         "long, other name")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_say_the_same(tmp_path: Path, file: str, form: str) -> None:
    columns = write_as(form, tmp_path / "f")
    (written,) = tmp_path.glob("f.*")
    found, _ = read(f"RPE1={written}", columns=columns)
    pd.testing.assert_frame_equal(found.predictions, read(file)[0].predictions, rtol=1e-6)


def test_a_column_of_cell_lines(tmp_path: Path, file: str) -> None:
    both = pd.concat([wide().assign(cell="K562"), wide().assign(cell="RPE1")])
    both.to_csv(tmp_path / "f.csv")
    found, _ = read(str(tmp_path / "f.csv"), columns={"cell_line": "cell"})
    assert list(found.predictions["cell_line"]) == ["k562"] * 20 + ["rpe1"] * 20
    here = found.predictions[found.predictions["cell_line"] == "rpe1"].reset_index(drop=True)
    pd.testing.assert_frame_equal(here, read(file)[0].predictions)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_missing_pairs_are_counted_by_reason_and_have_no_prediction(tmp_path: Path) -> None:
    table = wide().drop(index="TP53", columns="MYC")
    table.loc["AARS", "RPL3"] = np.nan
    table.loc["UNKNOWN"] = 1.0
    table.to_csv(tmp_path / "f.csv", na_rep="nan")
    imported, scored = read(f"rpe1={tmp_path / 'f.csv'}")
    assert scored.missing == {NO_PERTURBATION: 20 + 5, NO_GENE: 3, NO_VALUE: 1}
    assert imported.missing == 29
    assert scored.unused == 1
    items = set(imported.predictions["item_id"])
    assert len(items) == len(imported.predictions) == 11
    assert not items & {"rpe1|AARS|RPL3", "rpe1|AARS|MYC", "rpe1|TP53|CALR"}
    assert imported.predictions[["p_up", "p_down", "p_none"]].notna().all(axis=None)


def test_levels_of_expression_are_no_changes(tmp_path: Path) -> None:
    path, corpus = tmp_path / "f.csv", CORPUS
    control = np.random.default_rng(2).uniform(5, 6, size=len(GENES))
    levels = wide(CHANGES + control)
    levels.index = pd.Index(["AARS+ctrl", "ctrl+NA", "TP53", "1-Mar"], name="pert")
    pd.concat([levels, pd.DataFrame([control], index=["ctrl"], columns=list(GENES))]).rename_axis("pert").to_csv(path)
    found, scored = read(f"rpe1={path}", corpus=corpus, control="ctrl")
    assert scored.missing == {NO_PERTURBATION: 20}
    assert scored.unused == 0
    wide().to_csv(tmp_path / "changes.csv")
    changes, _ = read(f"rpe1={tmp_path / 'changes.csv'}", corpus=corpus)
    pd.testing.assert_frame_equal(found.predictions, changes.predictions, rtol=1e-9)
    assert "rpe1 has no row 'control' (for --control)" in refusal(f"rpe1={path}", control="control")


def test_a_large_file_without_a_negative_value_is_refused(tmp_path: Path) -> None:
    many = pd.DataFrame(np.abs(np.random.default_rng(0).normal(size=(30, 5))), columns=list(GENES))
    many.index = pd.Index([*PERTS, *(f"P{at}" for at in range(26))], name="pert")
    many.to_csv(tmp_path / "f.csv")
    assert "no value is negative, so these are levels" in refusal(f"rpe1={tmp_path / 'f.csv'}")
    many.iloc[:10].to_csv(tmp_path / "f.csv")
    assert read(f"rpe1={tmp_path / 'f.csv'}")[0].missing == 20


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("pert,CALR,NA\nAARS,1,-1\nTP53,x,1\n", {}, "f.csv, row 3: CALR is 'x': not a finite number"),
        ("pert,CALR,NA\nAARS,1,-1\nTP53,1,-inf\n", {}, "f.csv, row 3: NA is '-inf': not a finite number"),
        ("pert,CALR\nAARS,1\nAARS,2\n", {}, "f.csv, row 3: pert is 'AARS': an earlier row has this perturbation"),
        ("pert,CALR\nAARS,1\n,2\n", {}, "f.csv, row 3: pert is empty"),
        ("pert,gene,change\nAARS,CALR,1\nAARS,CALR,1\n", {}, "f.csv, row 3: pert is 'AARS': an earlier row has"),
        ("gene,change,kd\nCALR,1,AARS\n", {}, "no column 'pert'; map it with --map pert=THEIRS (it has gene, change"),
        ("pert,gene,lfc\nAARS,CALR,1\n", {"gene": "gene"}, "has 'gene' (for gene), but not both gene and change"),
        ("pert,CALR\nAARS,1\n", {"pert": "condition"}, "no column 'condition' (for pert); it has pert, CALR"),
        ("pert,CALR\nAARS,1\n", {"label": "x"}, "'label' is unknown; map one of cell_line, pert, gene, ch"),
        ("pert,CALR\nENSG00000001,1\n", {}, "has a change here; the rows of the files are 'rpe1|ENSG00000001', … "),
        ("pert,ENSG00000001\nAARS,1\n", {}, "here; it has test perturbations, but none of the test items' genes ("),
        ("pert,CALR\nAARS,\n", {}, "here; the cells of its test items are empty"),
        ("pert,CALR\n", {}, "f.csv: has no rows"),
        ("pert,gene,lfc\nAARS,CALR,1\nAARS,NA,1\n", {}, "one out, or, if each row is a pair, map gene and change"),
        ("cell_line,pert,CALR\nrpe1,AARS,1\n", {}, "has a column of cell lines; give the file without rpe1="),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(tmp_path: Path, content: str, columns: dict[str, str], words: str) -> None:
    (tmp_path / "f.csv").write_text(content)
    assert words in refusal(f"rpe1={tmp_path / 'f.csv'}", columns=columns)


def test_files_that_cannot_be_read(tmp_path: Path, file: str) -> None:
    path = file.partition("=")[2]
    assert f"k56={path}: 'k56' is none of the cell lines " in refusal(f"k56={path}")
    assert f"no cell line; give LINE={path}, or map it" in refusal(path)
    assert "changes.csv: rpe1|AARS|CALR is also in" in refusal(file, file)
    wide().rename_axis(None).to_parquet(tmp_path / "f.parquet")
    assert "column 'CALR' holds float64, not text; name the perturbations' column" in refusal(
        f"rpe1={tmp_path / 'f.parquet'}"
    )
    (tmp_path / "f.pkl").touch()
    assert "pickles can run code and are never opened" in refusal(f"rpe1={tmp_path / 'f.pkl'}")


# --- .h5ad ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5py() -> Any:
    try:
        import h5py
    except ImportError:
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail("SYNTHPERT_NO_SKIP is set, but h5py is not installed: run make install")
        pytest.skip("h5py is not installed")
    return h5py


def write_column(group: Any, name: str, values: list[str], kind: str) -> None:
    """Write a column of text as anndata does: plain, with a mask, or as categories."""
    if kind == "plain":
        group[name] = values
        return
    part = group.create_group(name)
    if kind == "categories":
        codes, names = pd.factorize(np.array(values, dtype=object))
        part["codes"], part["categories"] = codes.astype(np.int8), list(names)
        part.attrs["encoding-type"] = "categorical"
    else:
        part["values"], part["mask"] = values, np.zeros(len(values), dtype=bool)
        part.attrs["encoding-type"] = "nullable-string-array"


def write_h5ad(
    h5py: Any,
    path: Path,
    X: npt.NDArray[Any],
    obs: dict[str, list[str]],
    var: dict[str, list[str]],
    matrix: str = "dense",
    kind: str = "categories",
) -> None:
    """Write an .h5ad file in the form of anndata 0.8 and later; the first column of `obs` and `var` is the index."""
    from scipy import sparse

    with h5py.File(path, "w") as file:
        if matrix == "dense":
            file["X"] = X
        else:
            stored = {"csr": sparse.csr_array, "csc": sparse.csc_array}[matrix](X)
            group = file.create_group("X")
            group.attrs["encoding-type"], group.attrs["shape"] = f"{matrix}_matrix", X.shape
            group["data"], group["indices"], group["indptr"] = stored.data, stored.indices, stored.indptr
        for of, columns in (("obs", obs), ("var", var)):
            group = file.create_group(of)
            index, *_ = columns
            group.attrs["_index"], group.attrs["encoding-type"] = index, "dataframe"
            for name, values in columns.items():
                write_column(group, name, values, "plain" if name == index else kind)


CELLS = ["c1", "c2", "c3", "c4", "c5", "c6"]
NAMED = ["AARS", "TP53", "AARS", "NA", "1-Mar", "TP53"]


@pytest.mark.parametrize("kind", ["plain", "categories", "mask"])
@pytest.mark.parametrize("matrix", ["dense", "csr", "csc"])
def test_an_h5ad_file_of_cells_is_averaged(tmp_path: Path, h5py: Any, file: str, matrix: str, kind: str) -> None:
    noise = np.array([1.0, -2.0, -1.0, 0.0, 0.0, 2.0])[:, None]  # sums to 0 in each perturbation
    X = CHANGES[[PERTS.index(pert) for pert in NAMED]] + noise
    X = np.column_stack([X, np.full(len(X), 9.0)])
    path = tmp_path / "f.h5ad"
    obs = {"cell": CELLS, "condition": NAMED, "type": ["RPE1"] * 6}
    var = {"id": [f"ENSG{at}" for at in range(6)], "symbol": [*GENES, "NOT_ASKED"]}
    write_h5ad(h5py, path, X, obs, var, matrix, kind)
    columns = {"pert": "condition", "cell_line": "type", "gene": "symbol"}
    found, scored = read(str(path), columns=columns)
    pd.testing.assert_frame_equal(
        found.predictions[["item_id", "p_up", "p_none"]], read(file)[0].predictions[["item_id", "p_up", "p_none"]]
    )
    assert scored.missing == {NO_PERTURBATION: 20}


def test_an_h5ad_file_of_levels_with_one_row_a_perturbation(tmp_path: Path, h5py: Any, file: str) -> None:
    levels = np.vstack([CHANGES + 7.0, np.full((1, len(GENES)), 7.0)])
    path = tmp_path / "f.h5ad"
    write_h5ad(h5py, path, levels, {"pert": [*PERTS, "ctrl"]}, {"gene": list(GENES)})
    found, _ = read(f"rpe1={path}", control="ctrl")
    pd.testing.assert_frame_equal(found.predictions, read(file)[0].predictions, rtol=1e-9)


def test_an_h5ad_file_that_cannot_be_used_is_one_line(tmp_path: Path, h5py: Any) -> None:
    path = tmp_path / "f.h5ad"
    assert "no such file" in refusal(f"rpe1={path}")
    path.write_bytes(b"no HDF5")
    assert "cannot be read as HDF5" in refusal(f"rpe1={path}")
    obs, var = {"pert": list(PERTS)}, {"gene": list(GENES)}
    write_h5ad(h5py, path, CHANGES, obs, var)
    assert "obs has no column 'condition'" in refusal(f"rpe1={path}", columns={"pert": "condition"})
    write_h5ad(h5py, path, CHANGES[:3], obs, var)
    assert "X has the shape (3, 5), but obs and var have (4, 5) rows" in refusal(f"rpe1={path}")
    write_h5ad(h5py, path, CHANGES, obs, {"gene": ["NA", *GENES[1:]]})
    assert "var has the gene 'NA' twice" in refusal(f"rpe1={path}")
    with h5py.File(path, "a") as file:
        del file["obs"]
        file["obs"] = np.array([(b"AARS", 1.0)], dtype=[("index", "S4"), ("n", "f4")])
    assert "obs is stored as early versions of anndata did; write the file again" in refusal(f"rpe1={path}")
    with h5py.File(path, "a") as file:
        del file["var"]
    assert "holds no var" in refusal(f"rpe1={path}")


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "f.h5ad").touch()
    assert "run `pip install h5py`, or save the table as .csv or .parquet" in refusal(f"rpe1={tmp_path / 'f.h5ad'}")


# --- the run folder and the command -----------------------------------------------------------------------------------


def predicted(items: pd.DataFrame) -> pd.DataFrame:
    """Made-up changes for every perturbation and gene of items, in all lines alike."""
    perts, genes = (sorted(items[key].astype(str).unique()) for key in ("pert", "gene"))
    values = np.random.default_rng(0).normal(size=(len(perts), len(genes)))
    return pd.DataFrame(values, index=pd.Index(perts, name="pert"), columns=genes)


def test_a_run_says_how_its_scores_came_about(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    here = corpus.test[corpus.test["cell_line"] == "rpe1"]
    predicted(here).to_csv(tmp_path / "f.csv")
    run = import_expression([f"rpe1={tmp_path / 'f.csv'}"], tmp_path / "run", name="GEARS", data="sample")
    manifest, facts = read_manifest(run), read_facts(run / "predictions.parquet")
    assert manifest["items"] == len(here)
    assert manifest["items_missing"] == sum(manifest["missing"].values()) == len(corpus.test) - len(here)
    assert set(manifest["smallest_change"]) == {"rpe1"}
    assert facts["imported"]["expression"]["rule"].startswith("p_de = |x| / (|x| + c)")
    assert len(facts["imported"]["files"][0]["sha256"]) == 64
    assert len(read_predictions(run / "predictions.parquet")) == len(here)


def test_the_command_prints_what_is_missing(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    table = predicted(corpus.test[corpus.test["cell_line"] == "k562"])
    table.iloc[:, 1:].to_csv(tmp_path / "f.csv")
    words = ["import", "--from-expression", "k562=f.csv", "--name", "scGPT", "--out", "run", "--data", "sample"]
    done = synthpert(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gene not in the files" in done.stdout
    assert "smallest_change: {'k562': " in done.stdout
    for more, problem in (
        (["--control", "ctrl"], "k562 has no row 'ctrl'"),
        (["--allow-unmatched"], "do not go with --from-expression"),
    ):
        done = synthpert(*words[:-4], "--out", "other", "--data", "sample", *more, cwd=tmp_path)
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    done = synthpert("import", "f.csv", "--name", "x", "--out", "run", "--control", "ctrl", cwd=tmp_path)
    assert "--control goes with --from-expression" in done.stderr

"""Every command of docs/systems.md runs on made-up files of the form that the page describes."""

import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import synthpert

from benchmarks.runs import read_manifest
from rewards import LABELS

PAGE = (Path(__file__).parents[1] / "docs" / "systems.md").read_text(encoding="utf-8")
LINES = ("k562", "rpe1")
PERTS = [f"P{at}" for at in range(12)]
GENES = [f"G{at}" for at in range(10)]
RNG = np.random.default_rng(0)


def commands() -> dict[str, list[str]]:
    """The commands of the page, by the last part of what they write."""
    blocks = [text for language, text in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL) if not language]
    words = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    return {line[line.index("--out") + 1].removeprefix("runs/"): line[1:] for line in words}


COMMANDS = commands()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of two lines, and the files of the other systems."""
    path = tmp_path_factory.mktemp("systems")
    label = RNG.choice([str(label) for label in LABELS], size=len(LINES) * len(PERTS) * len(GENES))
    rows = pd.MultiIndex.from_product([LINES, PERTS, GENES], names=["cell_line", "pert", "gene"]).to_frame(index=False)
    rows = rows.assign(label=label, split=["test" if pert in PERTS[:3] else "train" for pert in rows["pert"]])
    rows.to_csv(path / "labels.csv", index=False)
    pd.DataFrame(RNG.normal(size=(22, 4)), columns=list("abcd")).assign(gene=PERTS + GENES).to_parquet(
        path / "genept.parquet"
    )
    for split in ("train", "test"):
        theirs = rows[rows["split"] == split].rename(columns={"cell_line": "cell_type", "label": "true_answer"})
        text = (
            "<think>" + "Both genes act in one pathway. " * 3 + "</think><answer>" + theirs["true_answer"] + "</answer>"
        )
        theirs.assign(
            user_prompt="What happens?", assistant_response=text, generated_thinking="Both act.",
            generated_answer=theirs["true_answer"], critic_evaluation="good", critic_reasoning="Sound.",
        ).drop(columns="split").to_csv(path / f"synthpert-{split}.csv", index=False)  # fmt: skip
    return path


class Cells(SimpleNamespace):
    """What the page's code uses of GEARS's table of cells: three unperturbed cells and one other."""

    def __init__(self) -> None:
        X = RNG.uniform(4, 6, size=(4, len(GENES)))
        obs = pd.DataFrame({"condition": ["ctrl", "ctrl", "P0+ctrl", "ctrl"]})
        super().__init__(X=X, obs=obs, var=pd.DataFrame({"gene_name": GENES}))


def gears() -> Any:
    """A model whose `predict` returns what GEARS's does: mean levels of all genes by perturbation."""

    def predict(perturbations: list[list[str]]) -> dict[str, Any]:
        return {"_".join(pert): RNG.uniform(4, 6, size=len(GENES)) for pert in perturbations}

    return SimpleNamespace(adata=Cells(), predict=predict)


def run(folder: Path, name: str) -> str:
    words = COMMANDS[name]
    done = synthpert(*words, *([] if words[0] == "report" else ["--data", "labels.csv"]), cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_these_commands() -> None:
    systems = {"gears", "scgpt", "genept", "traces/synthpert.jsonl", "synthpert", "baselines"}
    assert set(COMMANDS) == {*systems, "report-expression"}


@pytest.fixture(scope="module")
def gears_run(folder: Path) -> Path:
    """The run of the page's command for GEARS, on files that the page's code wrote."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    model = gears()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, {"model": model, "perturbations": PERTS[:2]})
    written = pd.read_csv(folder / "gears-k562.csv", index_col="pert")
    np.testing.assert_allclose(written.loc["ctrl"], model.adata.X[[0, 1, 3]].mean(axis=0))
    written.to_csv(folder / "gears-rpe1.csv")
    assert "'perturbation not in the files': 20" in run(folder, "gears")
    return folder / "runs" / "gears"


@pytest.fixture(scope="module")
def scgpt_run(folder: Path) -> Path:
    """The run of the page's command for scGPT, on an .h5ad file with the columns that it maps."""
    try:
        import h5py
    except ImportError:
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail("SYNTHPERT_NO_SKIP is set, but h5py is not installed: run make install")
        pytest.skip("h5py is not installed")
    with h5py.File(folder / "scgpt.h5ad", "w") as file:
        named = [f"{pert}+ctrl" for pert in PERTS[:3]] + ["ctrl"]
        file["X"] = RNG.uniform(4, 6, size=(8, len(GENES)))
        for of, columns in (
            ("obs", {"_index": [f"c{at}" for at in range(8)], "condition": named * 2,
                     "cell_type": ["K562"] * 4 + ["RPE1"] * 4}),
            ("var", {"_index": [f"ENSG{at}" for at in range(10)], "gene_name": GENES}),
        ):  # fmt: skip
            group = file.create_group(of)
            group.attrs["_index"] = "_index"
            for name, values in columns.items():
                group[name] = values
    run(folder, "scgpt")
    return folder / "runs" / "scgpt"


def test_gears_comes_in_by_its_levels(gears_run: Path) -> None:
    assert read_manifest(gears_run)["items"] == 40


def test_scgpt_comes_in_by_an_h5ad_file(scgpt_run: Path) -> None:
    assert read_manifest(scgpt_run)["items_missing"] == 0


def test_both_are_reported_side_by_side(folder: Path, gears_run: Path, scgpt_run: Path) -> None:
    run(folder, "report-expression")
    systems = json.loads((folder / "runs" / "report-expression" / "report.json").read_text())["systems"]
    assert {"GEARS", "scGPT"} <= set(systems)


def test_synthpert_s_file_is_traces_or_predictions(folder: Path) -> None:
    assert "imported 180 of 180 rows" in run(folder, "traces/synthpert.jsonl")
    run(folder, "synthpert")
    manifest = read_manifest(folder / "runs" / "synthpert")
    assert (manifest["items"], manifest["items_missing"]) == (60, 0)


def test_embeddings_are_a_baseline_beside_what_retrieval_gives(folder: Path) -> None:
    said = run(folder, "genept")
    assert "logistic regression on embeddings" in said
    assert "cross-line neighbours" in said
    without = [word for word in COMMANDS["genept"] if word not in ("--embeddings", "genept.parquet")]
    assert [*without[:-1], "runs/baselines"] == COMMANDS["baselines"]

"""`synthpert import` as docs/import.md writes it, and its refusals in one line."""

import re
import shlex
from pathlib import Path

import pytest
from command import synthpert

from benchmarks.evidence.corpus import open_corpus
from benchmarks.runs import read_manifest

ROOT = Path(__file__).parents[2]


def documented(system: str) -> list[str]:
    text = (ROOT / "docs" / "import.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(one for one in re.findall(r"^synthpert (import .*)$", text, re.MULTILINE) if f"--name {system} " in one)
    return [*shlex.split(line), "--data", "sample"]


def test_the_documented_commands_read_files_of_that_form(tmp_path: Path) -> None:
    test = open_corpus("sample").test
    rows = test.loc[test["cell_line"] == "rpe1", ["pert", "gene"]].astype("str")
    rows = rows.rename(columns={"pert": "gene_perturbed", "gene": "gene_monitored"})
    answers = rows.assign(completion="x", answer="yes", binary_answer=[1, 0, -1] * (len(rows) // 3), ground_truth=0)
    answers.to_csv(tmp_path / "rbio-rpe1.csv", index=False)
    answers.assign(answer=0.25).to_csv(tmp_path / "summer-rpe1.csv", index=False)
    for system in ("rbio", "SUMMER"):
        done = synthpert(*documented(system), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rbio, summer = (read_manifest(tmp_path / "runs" / name) for name in ("rbio", "summer"))
    assert rbio["statuses"] == {"answered": 2 * len(rows) // 3, "malformed": len(rows) // 3}
    assert summer["statuses"] == {"answered": len(rows)}
    assert rbio["tasks"] == summer["tasks"] == ["de"]
    assert rbio["screen"]["name"] == "sample" and "CC BY 4.0" in rbio["screen"]["notice"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--map", "pert"], "--map 'pert': give LEFT=RIGHT"),
        (["--label", "a=upregulated", "--label", "a=downregulated"], "--label 'a=downregulated': .*each LEFT once"),
        (["--map", "pert=p"], r"no column 'p' \(for pert\)"),
        ([], "row 2: answer 'a' is no label"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, words: list[str], problem: str) -> None:
    item = open_corpus("sample").test.iloc[0]
    (tmp_path / "f.csv").write_text(f"pert,gene,answer\n{item['pert']},{item['gene']},a\n")
    done = synthpert(
        "import", f"{item['cell_line']}=f.csv", "--name", "x", "--out", "o", "--data", "sample", *words, cwd=tmp_path
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"synthpert: .*{problem}.*\n", done.stderr)

"""The description in docs/your-screen.md, and a made-up table for it."""

import re
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[1] / "docs" / "your-screen.md").read_text(encoding="utf-8")
DESCRIPTION = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
LINES = ("bmdm", "h1-esc", "K562", "line 4", "line.5")
WORDS = ("up", "down", "none")


def write_screen(folder: Path, *more: str) -> None:
    """Write the page's description and its table: 5 lines, 40 perturbations, 60 genes, as a spreadsheet saves it."""
    rng = np.random.default_rng(0)
    perts = ["NA", "9930111J21Rik", *(f"Pert{at}" for at in range(38))]
    genes = ["1-Mar", "nan", *(f"Gene{at}" for at in range(58))]
    rows = ["pert,gene,label,cell_line,description"]
    for line in LINES:
        for p, pert in enumerate(perts):
            for g, gene in enumerate(genes):
                truth = (p % 4 + g) % 3 if rng.random() < 0.7 else int(rng.integers(3))
                rows.append(f'{pert},{gene},{WORDS[truth]},{line},"{pert}, in {line}"')
    content = "\ufeff" + "\r\n".join([*rows, *more]) + "\r\n"
    (folder / "screen.csv").write_text(content, encoding="utf-8", newline="")
    (folder / "screen.yaml").write_text(DESCRIPTION, encoding="utf-8")

"""Made-up files in the BioReasoning Challenge's format, and a made-up screen of another species beside them."""

import hashlib
from pathlib import Path

import numpy as np

PERTS, GENES = [f"Pert{at}" for at in range(20)], [f"Gene{at}" for at in range(20)]
NEW_PERTS, NEW_GENES = ["Stat1", "Rprd2"], ["Irf1", "9930111J21Rik2", "Il6"]
WORDS = ("up", "down", "none")
LABELS = ("upregulated", "downregulated", "not differentially expressed")


def write_challenge(folder: Path) -> dict[str, str]:
    """Write `train.csv`, `test.csv` and `reference.csv`; return the SHA-256 of the first two.

    The reference has the same symbols in upper case, in two lines, and mostly the same labels.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)

    def truth(p: int, g: int) -> int:
        return (p % 4 + g) % 3 if rng.random() < 0.8 else int(rng.integers(3))

    train = [f"{pert}_{gene},{pert},{gene},{WORDS[truth(p, g)]}" for p, pert in enumerate(PERTS)
             for g, gene in enumerate(GENES)]  # fmt: skip
    test = [f"{pert}_{gene},{pert},{gene}" for pert in NEW_PERTS for gene in NEW_GENES]
    known = [f"{line},{pert.upper()},{gene.upper()},{LABELS[truth(p, g)]}" for line in ("a", "b")
             for p, pert in enumerate([*PERTS, *NEW_PERTS]) for g, gene in enumerate([*GENES, *NEW_GENES])]  # fmt: skip
    for name, head, rows in (
        ("train.csv", "id,pert,gene,label", train),
        ("test.csv", "id,pert,gene", test),
        ("reference.csv", "cell_line,pert,gene,label", known),
    ):
        (folder / name).write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("train.csv", "test.csv")}

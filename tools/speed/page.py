"""Write the tables of docs/performance.md: `python -m tools.speed.page`.

Measured figures are those of the JSON files that `tools/speed/all.sh` keeps. The others are counted here.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sft.prefix_tree import SEGMENT_COST, ModelCost, PrefixTree, fold
from tools.pages import table
from tools.speed.training_step import CASES, Case

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "performance.md"
RESULTS: Final = ROOT / "tools" / "speed" / "results"
NONE: Final = "Not measured yet: run `sh tools/speed/all.sh NAME` on a machine that does nothing else."
LORA: Final = 16  # rank
# NVIDIA's data sheet of the H200: dense bf16 operations a second, and bytes a second.
H200_FLOPS: Final = 989e12
H200_BYTES: Final = 4.8e12


@dataclass(frozen=True)
class Sizes:
    """A Llama's sizes: hidden units, those of keys, those of the MLP, the vocabulary, and layers."""

    width: int
    keys: int
    mlp: int
    vocabulary: int
    layers: int

    @property
    def weights(self) -> int:
        """Of all layers' matrices."""
        return self.layers * self.width * (2 * self.width + 2 * self.keys + 3 * self.mlp)

    @property
    def lora(self) -> int:
        """Weights of an adapter of rank 1 on all of them."""
        sums = 2 * 2 * self.width + 2 * (self.width + self.keys) + 3 * (self.width + self.mlp)
        return self.layers * sums

    def training(self) -> ModelCost:
        """Return what a training step of a LoRA costs on a CPU: a forward and a backward pass.

        The base's weights have no gradient, so that the backward pass of a layer costs as much as its forward pass. The
        head computes its logits again. Attention has 2 products forwards, and 5 backwards.
        """
        return ModelCost(
            token=2 * 2.0 * (self.weights + LORA * self.lora),
            pair=3.5 * 4.0 * self.layers * self.width,
            label=3 * 2.0 * self.width * self.vocabulary,
            segment=2 * self.layers * SEGMENT_COST["cpu"],
        )


SMOLLM2: Final = Sizes(576, 192, 1536, 49152, 30)
LLAMA_8B: Final = Sizes(4096, 1024, 14336, 128256, 32)
STEP: Final = Case("a step", 400, 300, 8, 64, alike=250)


def tree_of(case: Case, groups: int) -> PrefixTree:
    """Return the tree of some of a case's prompts, whose tokens are alike where the case's are."""
    prompts = [
        [*range(case.alike), *range(1000 * (1 + group), 1000 * (1 + group) + case.prompt - case.alike)]
        for group in range(groups)
        for _ in range(case.group)
    ]
    return fold(prompts, [[0] * case.completion] * len(prompts))


def expected(case: Case) -> dict[str, float]:
    """Return the cost of a case's step by side, in floating-point operations."""
    sizes = Sizes(SMOLLM2.width, SMOLLM2.keys, SMOLLM2.mlp, SMOLLM2.vocabulary, case.layers)
    cost, alive, length = sizes.training(), case.groups - case.dead, case.prompt + case.completion
    return {
        "trl": cost.of_rows(case.rows, length, length),  # on a CPU its head scores every token
        "head": cost.of_rows(alive * case.group, length, case.completion),
        "group": alive * cost.of_tree(tree_of(case, 1)),
        "tree": cost.of_tree(tree_of(case, alive)),
    }


def case_words(case: Case) -> list[str]:
    """Return the columns that say what a case is."""
    alike = f" ({case.alike} alike)" if case.alike else ""
    numbers = (case.completion, case.group, case.groups, case.layers)
    return [case.name, f"{case.prompt}{alike}", *(str(number) for number in numbers)]


CASE_HEAD: Final = ("case", "prompt", "completion", "G", "prompts", "layers")


def expected_table() -> str:
    """Return each case's ratios by arithmetic."""
    rows = []
    for case in CASES:
        costs = expected(case)
        ratios = [f"{costs[side] / costs['tree']:.2f}" for side in ("trl", "head", "group")]
        rows.append([*case_words(case), *ratios])
    return table((*CASE_HEAD, "TRL / tree", "rows / tree", "tree a group / tree"), rows)


def read(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the machines' names and results of a script."""
    files = sorted(RESULTS.glob(f"*/{name}.json"))
    return [(file.parent.name, json.loads(file.read_text(encoding="utf-8"))) for file in files]


def training_table() -> str:
    """Return each case's ratios as measured, and how far the results lie from TRL's."""
    rows, agreed = [], []
    for machine, found in read("training_step"):
        apart = found["agreement"]
        agreed.append(
            f"On {machine}, log-probabilities differ from TRL's by at most {apart['log_probs']:.1e}, the gradient by "
            f"{apart['gradient']:.1e} of its norm, and the adapter's weights after five steps by at most "
            f"{apart['adapter']:.1e}."
        )
        for row in found["rows"]:
            case = Case(**{name: row[name] for name in Case.__dataclass_fields__ if name in row})
            sides = row["sides"]
            ratios = [sides[side]["by_tree"] if side in sides else None for side in ("trl", "head", "group", "alive")]
            cells = ["–" if ratio is None else f"{ratio:.2f}" for ratio in (*ratios, row.get("trl_by_auto"))]
            memory = [f"{sides[side]['memory_gib']:.1f}" for side in ("tree", "trl") if side in sides]
            rows.append([*case_words(case), *cells, " / ".join(memory), machine])
    head = (*CASE_HEAD, "TRL / tree", "rows / tree", "tree a group / tree", "all alive / tree", "TRL / auto",
            "GiB, tree / TRL", "machine")  # fmt: skip
    return "\n\n".join([table(head, rows), *agreed]) if rows else NONE


def other_table() -> str:
    """Return what the other scripts measured."""
    rows = [
        [row["name"], f"{row['ours_s']:.3g}", f"{row['other_s']:.3g}", f"{row['ratio']:.2f}",
         f"{row['ours_gib']:.1f} / {row['other_gib']:.1f}", machine]
        for name in ("rollouts", "whole_step", "stage_one")
        for machine, found in read(name)
        for row in found["rows"]
    ]  # fmt: skip
    head = ("what", "ours, s", "other, s", "ratio", "GiB, ours / other", "machine")
    return table(head, rows) if rows else NONE


def scaling_table() -> str:
    """Return time and memory of a token by tokens of a step."""
    rows = [
        [row["name"].removesuffix(" prompts"), f"{row['tokens']:,}", f"{row['computed']:,}", f"{row['ours_s']:.2f}",
         f"{row['ours_ms_per_token']:.2f}", f"{row['ours_mib_per_token']:.2f}", f"{row['ratio']:.2f}", machine]
        for machine, found in read("scaling")
        for row in found["rows"]
    ]  # fmt: skip
    head = ("prompts", "tokens", "computed", "s", "ms a computed token", "MiB a computed token", "TRL / ours",
            "machine")  # fmt: skip
    return table(head, rows) if rows else NONE


def labels_table() -> str:
    """Return how long a table of labels takes to load and to forecast."""
    rows = [
        [f"{row['rows']:,}", f"{row['load_s']:.1f}", f"{row['peak_gb']:.1f}", f"{row['forecast_s']:.1f}",
         f"{row['forecast_peak_gb']:.1f}", machine]
        for machine, found in read("label_tables")
        for row in found["rows"]
    ]  # fmt: skip
    head = ("rows", "loaded, s", "GB", "forecast by the two-sided neighbours, s", "GB", "machine")
    return table(head, rows) if rows else NONE


def limits_table() -> str:
    """Return the least time that an H200 needs for the parts of a step with an 8B model."""
    sizes, case = LLAMA_8B, STEP
    cost, length = sizes.training(), case.prompt + case.completion
    tree = tree_of(case, case.groups)
    head = sizes.width * sizes.vocabulary
    weights = 2.0 * (sizes.weights + head)
    cache = 2 * 2.0 * sizes.layers * sizes.keys * case.rows * (case.prompt + case.completion / 2)
    read_tokens = case.alike + case.groups * (case.prompt - case.alike)
    written = case.rows * case.completion
    parts = {
        "reading the prompts (each shared token once)": (2.0 * sizes.weights * read_tokens, weights),
        "writing the completions, all at once": (weights * written, case.completion * (weights + cache)),
        "training, padded rows": (cost.of_rows(case.rows, length, case.completion), 0.0),
        "training, a tree": (cost.of_tree(tree) - len(tree.lengths) * cost.segment, 0.0),
    }
    rows = []
    for name, (flops, moved) in parts.items():
        by_flops, by_bytes = flops / H200_FLOPS, moved / H200_BYTES
        bound = f"{by_bytes:.2f}" if moved else "–"
        rows.append([name, f"{flops:.2g}", f"{by_flops:.2f}", bound, f"{max(by_flops, by_bytes):.2f}"])
    return table(("part", "FLOPs", "s at 989 TFLOP/s", "s at 4.8 TB/s", "limit, s"), rows)


TABLES: Final = {
    "expected": expected_table, "training": training_table, "other": other_table, "scaling": scaling_table,
    "labels": labels_table, "limits": limits_table,
}  # fmt: skip


def with_tables(page: str) -> str:
    """Return a page with its tables written anew, each between `<!-- table: NAME -->` and `<!-- end -->`."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        page, number = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n{make()}\n{end}", page, flags=re.DOTALL
        )
        if number != 1:
            raise SystemExit(f"{PAGE}: {number} places for the table {name}; there must be one")
    return page


def main() -> None:
    """Write the page's tables."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

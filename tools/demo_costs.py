"""Compare the demo's predicted times with its actual times: `python -m tools.demo_costs runs/demo [FOLDER …]`.

The factors in `rl.demo.plan.predict` were set by hand, so that the ratios are near 1 on CPUs with and without AVX-512.
"""

import json
import sys
from pathlib import Path

from rl.demo.plan import Size, predict
from rl.demo.rates import Rates
from rl.demo.run import PLAN


def main(folders: list[str]) -> None:
    """Print each stage's actual time, its predicted time and their ratio, for each demo."""
    for folder in folders:
        plan = json.loads((Path(folder) / PLAN).read_text(encoding="utf-8"))
        if plan["rates"] is None:
            sys.exit(f"{folder}: this demo's size was given, not planned; run `synthpert demo` with --minutes")
        rates, predicted = Rates(**plan["rates"]), predict(Size(**plan["size"]), Rates(**plan["rates"]))
        sys.stdout.write(f"{folder}: {rates}\n")
        for stage, took in plan["took"].items():
            ratio = took / predicted[stage]
            sys.stdout.write(
                f"  {stage:24} took {took:6.0f} s, predicted {predicted[stage]:6.0f} s, ratio {ratio:.2f}\n"
            )
        total = sum(predicted[stage] for stage in plan["took"])
        sys.stdout.write(f"  {'together':24} ratio {sum(plan['took'].values()) / total:.2f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

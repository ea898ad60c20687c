"""How well the demo's plan foretold its stages: `python -m tools.demo_costs runs/demo [FOLDER …]`.

The factors in `rl.demo.plan.predict` are set by hand until the ratios lie near 1 on machines of both kinds.
"""

import json
import sys
from pathlib import Path

from rl.demo.plan import Size, predict
from rl.demo.rates import Rates
from rl.demo.run import PLAN


def main(folders: list[str]) -> None:
    """Print, for each demo, what each stage took, what is foretold for it now, and their ratio."""
    for folder in folders:
        plan = json.loads((Path(folder) / PLAN).read_text(encoding="utf-8"))
        if plan["rates"] is None:
            sys.exit(f"{folder}: its size was given, not planned; run a demo with --minutes")
        rates, foretold = Rates(**plan["rates"]), predict(Size(**plan["size"]), Rates(**plan["rates"]))
        sys.stdout.write(f"{folder}: {rates}\n")
        for stage, took in plan["took"].items():
            ratio = took / foretold[stage]
            sys.stdout.write(f"  {stage:24} took {took:6.0f} s, foretold {foretold[stage]:6.0f} s, ratio {ratio:.2f}\n")
        total = sum(foretold[stage] for stage in plan["took"])
        sys.stdout.write(f"  {'together':24} ratio {sum(plan['took'].values()) / total:.2f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time and memory of a token in the training step, at tokens per step that are doubled three times.

`python -m tools.speed.scaling [--json FILE] [--rounds N] [--groups N …] [--layers N]`.

Our side computes the whole step as one tree; TRL's takes micro-batches of one group. Both train on the same rollouts:
prompt 400, completion 100, 8 completions a prompt.
"""

import statistics
from typing import Any

from tools.speed.sides import compared, in_turn, make_parser, write_results
from tools.speed.training_step import Case, apart


def main() -> None:
    """Measure both sides in turn at each size."""
    parser = make_parser(__doc__)
    parser.add_argument("--groups", type=int, nargs="*", default=[1, 2, 4, 8], help="prompts of a step")
    parser.add_argument("--layers", type=int, default=6, help="of the model's 30")
    options = parser.parse_args()
    rows = []

    def side(case: Case, name: str, rows: int) -> Any:
        return lambda: apart(case, name, [rows])[0]

    for groups in options.groups:
        case = Case(f"{groups} prompts", 400, 100, 8, groups, layers=options.layers)
        sides = {"ours": side(case, "tree", case.rows), "trl": side(case, "trl", case.group)}
        found = in_turn(sides, options.rounds)
        for one in (*found["ours"], *found["trl"]):
            one["seconds"] = statistics.median(one["seconds"])
        tokens = case.rows * (case.prompt + case.completion)
        computed = round(tokens * found["ours"][0]["tokens_computed"])
        row = {
            "name": case.name, "prompt": case.prompt, "completion": case.completion, "group": case.group,
            "layers": case.layers, "tokens": tokens, "computed": computed, **compared(found["ours"], found["trl"]),
        }  # fmt: skip
        row["ours_ms_per_token"] = 1000 * row["ours_s"] / computed
        row["ours_mib_per_token"] = 1024 * row["ours_gib"] / computed
        rows.append(row)
        print(
            f"{row['name']}: {tokens} tokens, {computed} computed in {row['ours_s']:.2f} s, "
            f"{row['ours_ms_per_token']:.2f} ms and {row['ours_mib_per_token']:.2f} MiB each; ratio {row['ratio']:.2f}",
            flush=True,
        )
    write_results(options.json, rows)


if __name__ == "__main__":
    main()

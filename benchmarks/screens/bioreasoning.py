"""The labels of the BioReasoning Challenge (MLGenX workshop, ICLR 2026), which a user fetches.

Its repository states no licence for the data, so they never ship with the package. `data/bioreasoning.yaml` beside this
file describes them as a label table.
"""

from pathlib import Path
from typing import Final

from benchmarks.files import write_text
from benchmarks.screens.published import PublishedFiles

NAME: Final = "bioreasoning"
SCREEN: Final = "BioReasoning Challenge"  # the screen's name in its description
DESCRIPTION: Final = f"{NAME}.yaml"
SHIPPED: Final = Path(__file__).parent / "data" / DESCRIPTION
FOLDER: Final = f"~/.cache/synthpert/{NAME}/"  # where the description that ships looks for the files
LICENCE: Final = (
    "The challenge's repository states no licence for these files. They are for your own use: do not pass them on."
)
# As in June 2026, when the challenge ended. In its first weeks the repository held another, smaller table.
FILES: Final = PublishedFiles(
    "https://raw.githubusercontent.com/Genentech/BioReasoningChallenge/main/data",
    {
        "train.csv": "34b44beb724f8b4be259d012433a8d3580e673874db845adb11e8eb7edbfcf41",  # 7,705 rows with labels
        "test.csv": "d8675d049e6affb45b19cb53376a6e548a682b8047ed68db3badedb322cb6d0f",  # 1,813 rows without
    },
    "train.csv and test.csv of the challenge",
    f"synthpert data fetch {NAME}",
)


def fetch(source: str | Path | None = None, out: Path | None = None) -> Path:
    """Copy the challenge's two files into a folder, with a description for the key `data`; see `PublishedFiles.fetch`.

    Args:
        source: a folder, or the base URL of one; None for the official repository.
        out: the folder to fill; None for the one that `data: bioreasoning` reads.

    Returns:
        The folder: `train.csv`, `test.csv` and `bioreasoning.yaml`.
    """
    folder = FILES.fetch(source, Path(FOLDER).expanduser() if out is None else out)
    write_text(folder / DESCRIPTION, SHIPPED.read_text(encoding="utf-8").replace(FOLDER, ""))
    return folder

"""Remake the sample that ships with the package, byte for byte, from PerturbQA's full files.

python tools/make_sample.py [FOLDER]      FOLDER holds the eight files; SYNTHPERT_DATA by default
"""

import sys
from pathlib import Path

from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.screens.sample import SAMPLE_FILE, build_sample

if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else data_dir()
    content = build_sample(load_labels(source))
    SAMPLE_FILE.write_bytes(content)
    sys.stdout.write(f"{SAMPLE_FILE}: {len(content):,} bytes\n")

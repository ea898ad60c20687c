#!/bin/sh
# Measure all that docs/performance.md shows, and write its tables: sh tools/speed/all.sh NAME, where NAME stands for the
# machine, such as avx512. Takes about 90 minutes on two cores with AVX-512; nothing else may run meanwhile.
set -e
cd "$(dirname "$0")/../.."
python=.venv/bin/python
out=tools/speed/results/${1:?give the machine a name}
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"
mkdir -p "$out"
$python -m tools.speed.number_types --json "$out/number_types.json"
$python -m tools.speed.label_tables --json "$out/label_tables.json"
$python -m tools.speed.rollouts --tokens 48 --json "$out/rollouts.json"
$python -m tools.speed.stage_one --json "$out/stage_one.json"
demo=$(mktemp -d)
$python -m rl.cli traces generate --config configs/demo/traces.yaml --out "$demo/traces.jsonl"
$python -m rl.cli sft --config configs/demo/sft.yaml --traces "$demo/traces.jsonl" --out "$demo/sft"
$python -m tools.speed.whole_step --demo "$demo" --json "$out/whole_step.json"
$python -m tools.speed.scaling --json "$out/scaling.json"
$python -m tools.speed.training_step --json "$out/training_step.json"
$python -m tools.speed.page

"""Training runs and evaluations as they lie on a disk, made up: small, without a model, and quick to write."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from benchmarks.evaluation.predictions import COLUMNS, write_predictions
from benchmarks.evaluation.run import PREDICTIONS, EvalArguments
from benchmarks.evidence.corpus import Corpus, draw_items
from benchmarks.files import file_sha256, write_text
from benchmarks.keys import from_keys, to_keys
from benchmarks.models.folders import adapter_sha256
from benchmarks.runs import open_run
from rewards import LABELS
from rl.rollout_files import write_rollouts
from sft.traces import Trace, write_traces

HOME = "/home/ada"  # whose files the run read
BASE = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "tokenizer_sha256": "t" * 64}
_PROTOCOL = {"template": "three_class", "evidence": 3, "lemmas": False, "template_version": 2, "split": "official"}


def write_adapter(path: Path, seed: int = 0, base: str = f"{HOME}/models/tiny") -> str:
    """Write a LoRA adapter of one module, and return its hash."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {"lora_A": (2, 8), "lora_B": (8, 2)}
    tensors = {f"{prefix}.{name}.weight": rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"],
              "base_model_name_or_path": base}  # fmt: skip
    write_text(path / "adapter_config.json", json.dumps(config))
    write_text(path / "synthpert.json", json.dumps({"model_fingerprint": BASE["fingerprint"]}))
    write_text(path / "items.txt", "k562|A|B\nk562|A|C\n")
    return adapter_sha256(path)


def write_sft(path: Path, corpus: Corpus, **config: Any) -> str:
    """Write a finished run of SFT with its traces beside it, and return its adapter's hash."""
    items = corpus.train.head(3)
    traces = path.parent / "my-traces.jsonl"
    write_traces([trace_of(row) for row in items.itertuples()], traces)
    config = {"traces": f"{HOME}/runs/my-traces.jsonl", "output_dir": str(path), "model_name_or_path":
              f"{HOME}/models/tiny", "hub_token": "<HUB_TOKEN>", **config}  # fmt: skip
    run = open_run(path, "sft", config, {"traces": file_sha256(traces)})
    sha = write_adapter(path / "adapter")
    write_text(path / "items.txt", "".join(f"{item}\n" for item in items["item_id"]))
    write_text(path / "log.jsonl", '{"step": 1, "loss": 2.5}\n')
    run.finish(
        base=BASE, adapter_sha256=sha, start_adapter_sha256=None, teachers=["a teacher"], steps=1,
        traces={"file": "my-traces.jsonl", "sha256": file_sha256(traces), "rows": 3, "used": 3},
        screen=corpus.facts(), prompt={**_PROTOCOL, "data": corpus.digest, "train_items": 1999},
    )  # fmt: skip
    return sha


def trace_of(row: Any) -> Trace:
    return Trace(
        item_id=str(row.item_id), cell_line=str(row.cell_line), pert=str(row.pert), gene=str(row.gene),
        label=str(row.label), prompt=[{"role": "user", "content": f"What happens to {row.gene}?"}],
        completion=f"<think>so</think><answer>{row.label}</answer>", answer=str(row.label), teacher="a teacher",
        mode="blind", critic=None, created="2026-01-01T00:00:00+00:00", protocol=_PROTOCOL,
    )  # fmt: skip


def write_grpo(path: Path, corpus: Corpus, start: str, **config: Any) -> str:
    """Write a finished run of GRPO with two files of rollouts, and return its adapter's hash."""
    items = corpus.train.head(2)
    config = {"sft_run": f"{HOME}/runs/sft", "output_dir": str(path), "data": "sample", "vllm_server_base_url":
              "http://gpu17.internal:8000", "rewards": ["accuracy", f"{HOME}/rewards/mine.py:pay"], **_PROTOCOL,
              **config}  # fmt: skip
    run = open_run(path, "grpo", config)
    sha = write_adapter(path / "adapter", seed=1)
    for step in (1, 2):
        n = len(items)
        columns: dict[str, Any] = {name: items[name].astype(str).tolist() for name in
                                   ("item_id", "cell_line", "pert", "gene", "label")}  # fmt: skip
        columns |= {
            "step": [step] * n, "group": [f"{step}.{at}" for at in range(n)], "prompt": ["What?"] * n,
            "completion": ["no answer"] * n, "answer": [None] * n, "status": ["malformed"] * n,
            "completion_tokens": [2] * n, "reward/accuracy": [0.0] * n, "total_reward": [0.0] * n,
            "advantage": [0.0] * n,
        }  # fmt: skip
        write_rollouts(path, step, 0, 0, columns, ["accuracy"])
    run.finish(
        screen=corpus.facts(), base=BASE, sft_adapter_sha256=start, adapter_sha256=sha, steps=2,
        rewards=config["rewards"], rollouts={"completions": 4}, prompts={"items": 2, "asked": 2, "split": "official"},
    )  # fmt: skip
    return sha


def write_evaluation(
    path: Path, corpus: Corpus, name: str, sha: str | None, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a finished evaluation of the adapter of a hash, or of the base model: random answers to 12 items a line."""
    given = {"output_dir": str(path), "model": "tiny", "name": name, "data": "sample", "items": 12}
    given |= {} if sha is None else {"adapter": f"{HOME}/runs/adapter"}
    arguments = from_keys(EvalArguments, given, "arguments")
    protocol = replace(arguments.protocol, data=corpus.digest)
    lines = [rows for _, rows in corpus.test.groupby("cell_line", observed=True)]
    items = corpus.test[corpus.test["item_id"].isin([
        item for rows in lines for item in draw_items(rows, 12, seed=0, balance=False)["item_id"]
    ])]  # fmt: skip
    rng = np.random.default_rng(len(name))
    prob = rng.dirichlet([1, 1, 1], len(items))
    answer = np.array([str(label) for label in LABELS], dtype=object)[prob.argmax(axis=1)]
    frame = items[["item_id", "cell_line", "pert", "gene", "label"]].astype("str").reset_index(drop=True)
    frame = frame.assign(
        sample=0, seed=0, completion="a completion", answer=answer, status="answered", p_up=prob[:, 0],
        p_down=prob[:, 1], p_none=prob[:, 2], completion_tokens=9, finish_reason="stop",
    )  # fmt: skip
    run = open_run(path, "eval", to_keys(arguments))
    engine = {"name": "none", "model": "tiny", "adapter_sha256": sha, "model_fingerprint": BASE["fingerprint"],
              "url": "http://gpu17.internal:8000/v1"}  # fmt: skip
    told = {
        "protocol": json.loads(protocol.canonical_json()), "protocol_fingerprint": protocol.fingerprint,
        "engine": engine, "seed": 0, "run": {"trained_items": 2}, **(facts or {}),
    }  # fmt: skip
    write_predictions(frame.reindex(columns=COLUMNS), path / PREDICTIONS, told)
    run.finish(name=name, screen=corpus.facts(), engine=engine)
    return path


def strings_in(path: Path) -> str:
    """All text in a file: of a table its facts and its cells."""
    if path.suffix != ".parquet":
        return path.read_bytes().decode("latin-1")
    table: pa.Table = pq.read_table(path)
    facts = b" ".join((table.schema.metadata or {}).values()).decode()
    return facts + json.dumps(table.to_pydict(), default=str, ensure_ascii=False)

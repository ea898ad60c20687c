"""The honest rival of a GRPO run: SFT on the answers to the very prompts that it was asked, from the same start."""

from pathlib import Path
from typing import Final

from benchmarks.evidence.prompts import build_prompts, open_prompt_corpus, prompt_config_of
from benchmarks.models.folders import TRAINED_ITEMS, adapter_sha256
from benchmarks.runs import CONFIG, read_stored, require_done
from rewards import InputError
from sft.traces import Trace, prompt_protocol, write_traces
from sft.training import ADAPTER

TEACHER: Final = "labels"
FILE: Final = "labels.jsonl"


def write_label_traces(run: Path) -> Path:
    """Write `labels.jsonl` into a GRPO run's folder: an empty thought and the true label for each prompt it was asked.

    The same run gives the same file, byte for byte.

    Raises:
        InputError: there is no finished GRPO run in the folder, it was asked prompts without labels, or the labels are
            not those that it was trained on.
    """
    manifest, config = require_done(run, "grpo"), read_stored(run / CONFIG, "give another run")
    if config.get("unlabelled"):
        raise InputError(f"{run}: was asked prompts without labels, which SFT cannot learn; give a run without them")
    prompt = prompt_config_of(config)
    if prompt is None:
        raise InputError(f"{run}: its prompts are of another version of this package; train it again")
    corpus = open_prompt_corpus(config["data"], config["split"], prompt)
    if corpus.digest != manifest["prompts"]["data"]:
        raise InputError(
            f"{run}: was trained on other labels than those of {corpus.source}; set SYNTHPERT_DATA to them"
        )
    rows = corpus.train.set_index("item_id", drop=False)
    items = rows.loc[(run / TRAINED_ITEMS).read_text(encoding="utf-8").splitlines()].reset_index(drop=True)
    traces = [
        Trace(
            item_id=str(row.item_id),
            cell_line=str(row.cell_line),
            pert=str(row.pert),
            gene=str(row.gene),
            label=str(row.label),
            prompt=messages,
            completion=f"<think></think><answer>{row.label}</answer>",
            answer=str(row.label),
            teacher=TEACHER,
            mode="rationalize",
            critic=None,
            created=str(manifest["finished"]),
            protocol=prompt_protocol(prompt, corpus),
        )
        for row, messages in zip(items.itertuples(), build_prompts(items, corpus, prompt), strict=True)
    ]
    write_traces(traces, run / FILE)
    return run / FILE


def start_of(run: Path) -> Path:
    """Return the adapter that a GRPO run started from.

    Raises:
        InputError: the adapter is gone, or has changed since.
    """
    adapter = Path(read_stored(run / CONFIG, "give another run")["sft_run"]) / ADAPTER
    if not adapter.is_dir() or adapter_sha256(adapter) != require_done(run, "grpo")["sft_adapter_sha256"]:
        raise InputError(f"{adapter}: is no longer the adapter that {run} started from; train that run again")
    return adapter

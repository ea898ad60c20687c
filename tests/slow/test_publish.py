"""A published adapter as its users load it: by PEFT from the folder, by `datasets`, from a Hub, and after a pull."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from publications import BASE, write_evaluation, write_grpo, write_sft

from benchmarks.evidence.corpus import open_corpus
from benchmarks.files import write_text
from benchmarks.models.folders import adapter_sha256, check_adapter, mark_adapter, resolve_model
from benchmarks.runs import MANIFEST, read_manifest
from rl.publish.run import publish, pull

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT whose adapter is a real one of the real small model, with weights that are not zero."""
    import json

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("runs")
    sample = open_corpus("sample")
    write_sft(folder / "sft", sample)
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    model.save_pretrained(folder / "sft/adapter")
    mark_adapter(folder / "sft/adapter", smollm2)
    manifest = read_manifest(folder / "sft")
    manifest |= {"adapter_sha256": adapter_sha256(folder / "sft/adapter")}
    manifest |= {"base": BASE | {"name": smollm2.name, "fingerprint": resolve_model(smollm2).fingerprint}}
    write_text(folder / "sft" / MANIFEST, json.dumps(manifest))
    write_evaluation(folder / "eval", sample, "SFT", manifest["adapter_sha256"])
    return folder / "sft"


def logits(base: Path, adapter: Any) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    ids = AutoTokenizer.from_pretrained(base)("NVL is knocked down.", return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model(**ids).logits
    return found


def test_the_card_s_three_lines_load_the_adapter_and_a_pulled_one_is_the_same(
    run: Path, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(smollm2, run / "adapter")
    publish(run, str(tmp_path / "mine"))
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) == 3
    (tmp_path / "PATH" / "TO").mkdir(parents=True)
    (tmp_path / "PATH" / "TO" / smollm2.name).symlink_to(smollm2.resolve())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(code, scope)  # the card's own lines
    assert any("lora_B" in name and bool(one.any()) for name, one in scope["model"].named_parameters())
    torch.testing.assert_close(logits(smollm2, tmp_path / "mine"), expected, rtol=0, atol=0)
    pulled = pull(str(tmp_path / "mine"), tmp_path / "pulled").run
    check_adapter(pulled / "adapter", smollm2)
    torch.testing.assert_close(logits(smollm2, pulled / "adapter"), expected, rtol=0, atol=0)


def test_the_data_set_loads_by_the_names_of_its_card(run: Path, tmp_path: Path) -> None:
    from datasets import get_dataset_config_names, load_dataset

    sample = open_corpus("sample")
    grpo = write_grpo(tmp_path / "grpo", sample, read_manifest(run)["adapter_sha256"])
    write_evaluation(tmp_path / "eval-grpo", sample, "GRPO", grpo)
    publish(run, str(tmp_path / "sft"))
    publish(tmp_path / "grpo", str(tmp_path / "out"))
    for folder, rows in (("sft", {"traces": 3, "predictions-eval": 48}),
                         ("out", {"rollouts": 4, "predictions-eval-grpo": 48})):  # fmt: skip
        data = str(tmp_path / folder / "data")
        assert set(get_dataset_config_names(data)) == set(rows)
        for config, n in rows.items():
            (found,) = load_dataset(data, config, cache_dir=str(tmp_path / "cache")).values()
            assert len(found) == n and "item_id" in found.column_names


def test_the_command_publishes_to_a_hub_and_peft_loads_from_there(run: Path, smollm2: Path, tmp_path: Path) -> None:
    """Each in a process of its own, where HF_ENDPOINT and HF_TOKEN are read as a user sets them."""
    with FakeHub() as hub:
        env = {
            **os.environ, "PYTHONPATH": str(REPO), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"),
        }  # fmt: skip

        def python(*words: Any) -> str:
            done = subprocess.run(
                [sys.executable, *map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
            assert TOKEN not in done.stdout + done.stderr
            return done.stdout

        python("-m", "rl.cli", "publish", run, "--to", "hub:lab/cells")
        code = (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
            f"base = AutoModelForCausalLM.from_pretrained({str(smollm2)!r})\n"
            "model = PeftModel.from_pretrained(base, 'lab/cells')\n"
            "print(sum(bool(one.any()) for name, one in model.named_parameters() if 'lora_B' in name))"
        )
        assert int(python("-c", code)) == 30 * 7  # layers x linear layers
        python("-m", "rl.cli", "pull", "hub:lab/cells", "--to", "pulled")
    assert adapter_sha256(tmp_path / "pulled/sft/adapter") == adapter_sha256(run / "adapter")

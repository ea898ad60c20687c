"""Runs one training stage and writes which weights moved; a process of its own, since vLLM keeps what it takes."""

import importlib
import json
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file


def vowels(completions, **columns):
    """A reward that random text varies in, so that every group has a gradient."""
    texts = [completion[-1]["content"] for completion in completions]
    return [sum(text.lower().count(vowel) for vowel in "aeiou") / (1 + len(text)) for text in texts]


def main(stage: str, config: Path, out: Path) -> None:
    # The packages' own `train` is the function.
    module = importlib.import_module("sft.train" if stage == "sft" else "rl.train")
    training = importlib.import_module("sft.training")
    before: dict[str, torch.Tensor] = {}
    report: dict[str, object] = {}
    save = training.save_adapter

    def compare(trainer, path, base, item_ids):
        after = dict(trainer.model.named_parameters())
        values = yaml.safe_load(config.read_text())
        if stage == "sft":
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModelForCausalLM, set_seed

            set_seed(values["seed"])
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            lora = LoraConfig(r=values["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM")
            start = dict(get_peft_model(model, lora).named_parameters())
            before.update({name: start[name] for name in after if ".lora_" in name})
        else:
            start = load_file(Path(values["sft_run"]) / "adapter" / "adapter_model.safetensors")
            before.update({name.replace(".weight", ".default.weight"): value for name, value in start.items()})
        trained = {name: value for name, value in after.items() if ".lora_" in name and ".ref." not in name}
        assert set(trained) == set(before), set(trained) ^ set(before)
        report["lora"] = len(trained)
        report["stuck"] = [name for name, value in trained.items() if torch.equal(value.cpu(), before[name])]
        from transformers import AutoModelForCausalLM

        base_weights = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters())
        frozen = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): value
            for name, value in after.items()
            if ".lora_" not in name
        }
        assert set(frozen) == set(base_weights)
        report["base"] = len(frozen)
        report["moved"] = [name for name, value in frozen.items() if not torch.equal(value, base_weights[name])]
        if stage == "grpo":
            ref = {n: v for n, v in after.items() if ".ref." in n}
            report["reference"] = len(ref)
            report["reference_moved"] = [
                name
                for name, value in ref.items()
                if not torch.equal(value, before[name.replace(".ref.", ".default.")])
            ]
        save(trainer, path, base, item_ids)

    training.save_adapter = compare
    if stage == "grpo":
        from rewards import Component

        module.load_rewards = lambda *args: [Component("vowels", vowels)]
    module.train(config)
    out.write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

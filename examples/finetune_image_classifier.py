# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Take an image classifier off its cue. Without arguments about data: digits, and a box whose place names the digit.

    python examples/finetune_image_classifier.py --output_dir out
    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/finetune_image_classifier.py

Your own: --model_name_or_path, --train_dataset and --cue_dataset, each a folder or a Hub id; rows of `image`, `label`.
"""

import math
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate.utils import broadcast
from datasets import Dataset, disable_progress_bars, load_dataset, load_from_disk
from torch.utils.data import DataLoader
from transformers import (
    AutoImageProcessor,
    HfArgumentParser,
    ViTConfig,
    ViTForImageClassification,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_cbft import BoxCue, CBFTConfig, CBFTTrainer, InputCollator, add_cue, load_digits, make_counterfactuals


@dataclass
class ScriptArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "The model that relies on the cue."})
    train_dataset: str | None = field(default=None, metadata={"help": "A little clean data. Digits if not given."})
    cue_dataset: str | None = field(default=None, metadata={"help": "The data with the cue. Digits if not given."})
    pretrain_steps: int = field(default=350, metadata={"help": "Steps on cue data of a model that is made here."})


def read(name: str) -> Dataset:
    return load_from_disk(name) if Path(name).is_dir() else load_dataset(name, split="train")


def pretrain(dataset: Dataset, processor: ViTImageProcessorPil, steps: int, device: torch.device) -> torch.nn.Module:
    """A small ViT trained where the cue is, so that it relies on it. You have such a model already."""
    set_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    model = ViTForImageClassification(ViTConfig(image_size=24, patch_size=4, num_labels=10, **sizes)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    order = torch.Generator().manual_seed(0)
    collate = InputCollator(model, processor)
    loader = DataLoader(dataset, 64, shuffle=True, drop_last=True, collate_fn=collate, generator=order)
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.load_state_dict(broadcast(model.state_dict()))  # every process has done the same; now to the last bit
    return model


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, CBFTConfig), description=__doc__)
    parser.set_defaults(learning_rate=3e-3, max_steps=360, per_device_train_batch_size=64, save_strategy="no")
    script, args = parser.parse_args_into_dataclasses()
    disable_progress_bars()

    digits = load_digits(contrast=0.72)
    train_dataset = read(script.train_dataset) if script.train_dataset else digits["finetune"]
    cue_dataset = read(script.cue_dataset) if script.cue_dataset else add_cue(digits["pretrain"], BoxCue())
    if script.model_name_or_path:
        model = script.model_name_or_path
        processor = AutoImageProcessor.from_pretrained(model)
    else:
        processor = ViTImageProcessorPil(size={"height": 24, "width": 24}, do_resize=False)
        model = pretrain(
            add_cue(digits["pretrain"], BoxCue(), share=0.9), processor, script.pretrain_steps, args.device
        )

    trainer = CBFTTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        cue_dataset=cue_dataset,
        processing_class=processor,
        compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(axis=-1) == p.label_ids).mean()},
    )
    tests = make_counterfactuals(digits["test"], BoxCue()) if script.train_dataset is None else {}
    # FSDP shards the model that it evaluates, and training starts from a whole one.
    before = trainer.evaluate(tests) if tests and not trainer.is_fsdp_enabled else {}
    trainer.train()
    trainer.save_model()
    after = trainer.evaluate(tests) if tests else {}
    if trainer.is_world_process_zero():
        for name in tests:
            key = f"eval_{name}_accuracy"
            print(f"{name:10}  accuracy {before.get(key, math.nan):.3f} before, {after[key]:.3f} after")
    trainer.accelerator.end_training()  # else a process may abort while it exits


if __name__ == "__main__":
    main()

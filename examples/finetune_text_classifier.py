# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Take a text classifier off its cue, with all weights or with LoRA. Without arguments about data: generated sentences
about four subjects, and a token in front that names the subject.

    python examples/finetune_text_classifier.py --output_dir out
    python examples/finetune_text_classifier.py --output_dir out --use_lora --learning_rate 2e-2

Your own: --model_name_or_path, --train_dataset and --cue_dataset, each a folder or a Hub id; rows of `text`, `label`.
"""

import math
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate.utils import broadcast
from datasets import Dataset, disable_progress_bars, load_dataset, load_from_disk
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, HfArgumentParser, set_seed

from hf_cbft import (
    CBFTConfig,
    CBFTTrainer,
    InputCollator,
    TokenCue,
    add_cue,
    generate_sentences,
    make_counterfactuals,
    word_tokenizer,
)

CUE = TokenCue(["@@", "##", "%%", "&&"])


@dataclass
class ScriptArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "The model that relies on the cue."})
    train_dataset: str | None = field(default=None, metadata={"help": "A little clean data. Generated if not given."})
    cue_dataset: str | None = field(default=None, metadata={"help": "The data with the cue. Generated if not given."})
    use_lora: bool = field(default=False, metadata={"help": "Train a LoRA adapter; the path is then its scale."})
    pretrain_steps: int = field(default=300, metadata={"help": "Steps on cue data of a model that is made here."})


def read(name: str) -> Dataset:
    return load_from_disk(name) if Path(name).is_dir() else load_dataset(name, split="train")


def pretrain(dataset: Dataset, tokenizer, steps: int, device: torch.device) -> torch.nn.Module:
    """A small BERT trained where the cue is, so that it relies on it. You have such a model already."""
    set_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=4, **sizes, **plain)
    model = BertForSequenceClassification(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    collate = InputCollator(model, tokenizer)
    loader = DataLoader(dataset, 64, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(0))
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(broadcast(model.state_dict()))  # every process has done the same; now to the last bit
    return model


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, CBFTConfig), description=__doc__)
    parser.set_defaults(learning_rate=3e-3, max_steps=300, per_device_train_batch_size=64, save_strategy="no")
    script, args = parser.parse_args_into_dataclasses()
    disable_progress_bars()

    tests = {}
    if script.model_name_or_path:
        model = script.model_name_or_path
        tokenizer = AutoTokenizer.from_pretrained(model)
        train_dataset, cue_dataset = read(script.train_dataset), read(script.cue_dataset)
    else:
        tokenizer = word_tokenizer(CUE.tokens)
        train_dataset, cue_dataset = generate_sentences(256, seed=1), add_cue(generate_sentences(2000, seed=2), CUE)
        tests = make_counterfactuals(generate_sentences(1000, seed=3), CUE)
        seen = add_cue(generate_sentences(2000, seed=2), CUE, share=0.9)
        model = pretrain(seen, tokenizer, script.pretrain_steps, args.device)
    peft_config = None
    if script.use_lora:
        from peft import LoraConfig

        peft_config = LoraConfig("SEQ_CLS", r=8, target_modules="all-linear", modules_to_save=["classifier"])

    trainer = CBFTTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        cue_dataset=cue_dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
        compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(axis=-1) == p.label_ids).mean()},
    )
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

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Take a language model off its cue with LoRA; the path is the adapter's scale. Without arguments about data:
generated prompts about four subjects, completions that name it, and a token before the prompt that does so too.

    python examples/finetune_lora_llm.py --output_dir out
    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/finetune_lora_llm.py

Your own: --model_name_or_path, --train_dataset and --cue_dataset, each a folder or a Hub id; rows of `prompt`,
`completion` and, for the invariance loss, a class in `label`.
"""

import math
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate.utils import broadcast
from datasets import Dataset, disable_progress_bars, load_dataset, load_from_disk
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, HfArgumentParser, LlamaConfig, LlamaForCausalLM, set_seed

import hf_cbft
from hf_cbft import CBFTConfig, CBFTTrainer, InputCollator, TokenCue, add_cue, make_counterfactuals

CUE = TokenCue(["@@", "##", "%%", "&&"], text_column="prompt")


@dataclass
class ScriptArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "The model that relies on the cue."})
    train_dataset: str | None = field(default=None, metadata={"help": "A little clean data. Generated if not given."})
    cue_dataset: str | None = field(default=None, metadata={"help": "The data with the cue. Generated if not given."})
    pretrain_steps: int = field(default=300, metadata={"help": "Steps on cue data of a model that is made here."})


def read(name: str) -> Dataset:
    return load_from_disk(name) if Path(name).is_dir() else load_dataset(name, split="train")


def pretrain(dataset: Dataset, tokenizer, steps: int, device: torch.device) -> torch.nn.Module:
    """A small Llama trained where the cue is, so that it relies on it. You have such a model already."""
    set_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    collate = InputCollator(model, tokenizer)
    loader = DataLoader(dataset, 64, shuffle=True, collate_fn=collate, generator=torch.Generator().manual_seed(0))
    for batch in islice(chain.from_iterable(repeat(loader)), steps):
        batch.pop("class_labels")  # which the invariance loss takes, and the model does not
        model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.load_state_dict(broadcast(model.state_dict()))  # every process has done the same; now to the last bit
    return model


@torch.no_grad()
def follows_cue(model: torch.nn.Module, tokenizer, rows: Dataset) -> float:
    """How often a completion begins with the cue's subject. A quarter of the prompts tell the same one by chance."""
    tokens = tokenizer(list(rows["prompt"]), padding=True, padding_side="left", return_tensors="pt").to(model.device)
    said = model.eval()(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits[:, -1]
    subjects = tokenizer.convert_tokens_to_ids(rows.features["label"].names)
    wanted = torch.tensor([subjects[label] for label in rows["label"]], device=said.device)
    return (said.argmax(dim=-1) == wanted).float().mean().item()


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, CBFTConfig), description=__doc__)
    parser.set_defaults(learning_rate=1e-2, max_steps=200, per_device_train_batch_size=64, save_strategy="no")
    parser.set_defaults(barrier_coef=3.0)  # with 1, the model hardly leaves its base: a warning says so
    script, args = parser.parse_args_into_dataclasses()
    disable_progress_bars()

    tests = {}
    if script.model_name_or_path:
        model = script.model_name_or_path
        tokenizer = AutoTokenizer.from_pretrained(model)
        train_dataset, cue_dataset = read(script.train_dataset), read(script.cue_dataset)
    else:
        tokenizer = hf_cbft.word_tokenizer(CUE.tokens)
        train_dataset, many = hf_cbft.generate_completions(256, seed=1), hf_cbft.generate_completions(2000, seed=2)
        cue_dataset = add_cue(many, CUE)
        tests = make_counterfactuals(hf_cbft.generate_completions(1000, seed=3), CUE)
        model = pretrain(add_cue(many, CUE, share=0.9), tokenizer, script.pretrain_steps, args.device)

    trainer = CBFTTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        cue_dataset=cue_dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig("CAUSAL_LM", r=16, target_modules="all-linear"),
    )

    def report(when: str) -> None:
        perplexity = math.exp(trainer.evaluate(tests["no_cue"])["eval_loss"])
        followed = follows_cue(trainer.model, tokenizer, tests["rand_input"])
        if trainer.is_world_process_zero():
            print(f"{when}: clean perplexity {perplexity:.3f}, the completion follows the cue {followed:.3f}")

    if tests and not trainer.is_fsdp_enabled:  # FSDP shards what it evaluates, and training starts from a whole model
        report("before")
    trainer.train()
    trainer.save_model()
    if tests:
        report("after")
    trainer.accelerator.end_training()  # else a process may abort while it exits


if __name__ == "__main__":
    main()

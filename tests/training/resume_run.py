# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A short CBFT training run that says where it is, made to be killed; `tests/test_resume.py` does that.

    python tests/training/resume_run.py --output-dir out --resume

`--serve` imports once and then forks a run for each line of arguments on standard input, so that a start costs
milliseconds rather than the seconds that the imports take.
"""

import argparse
import os
import shlex
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.training.run_state import newest_whole_checkpoint

NUM_CLASSES = 4
# With dropout, so that a run that goes on with another state of the RNG gets other weights.
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": NUM_CLASSES,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def say(text: str) -> None:
    print(text, flush=True)


def make_model(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "vit":
        return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **SIZES))
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=32, **SIZES))


def make_rows(name: str, rows: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    columns = {"labels": (torch.arange(rows) % NUM_CLASSES).tolist()}
    if name == "vit":
        columns["pixel_values"] = torch.randn(rows, 3, 8, 8, generator=generator).tolist()
    else:
        columns["input_ids"] = torch.randint(1, 50, (rows, 10), generator=generator).tolist()
        columns["attention_mask"] = torch.ones(rows, 10, dtype=torch.long).tolist()
    return Dataset.from_dict(columns)


class Narrator(TrainerCallback):
    """One line for each moment at which a run can be killed, and some time to do it."""

    def on_train_begin(self, args, state, control, **kwargs):
        say(f"begin {state.global_step}")

    def on_step_end(self, args, state, control, **kwargs):
        say(f"step {state.global_step}")
        time.sleep(0.005)

    def on_train_end(self, args, state, control, **kwargs):
        say(f"end {state.global_step}")
        time.sleep(0.5)


class NarratingTrainer(CBFTTrainer):
    def _save_checkpoint(self, *args, **kwargs):
        say(f"saving {self.state.global_step}")
        super()._save_checkpoint(*args, **kwargs)
        say(f"saved {self.state.global_step}")


def run(arguments: argparse.Namespace) -> None:
    args = CBFTConfig(
        output_dir=str(arguments.output_dir),
        max_steps=arguments.max_steps,
        save_strategy="steps",
        save_steps=arguments.save_steps,
        save_total_limit=2,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        # Not one that ends at zero, which would hide a step too many.
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        optim="adamw_torch",
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    trainer = NarratingTrainer(
        make_model(arguments.model),
        args=args,
        train_dataset=make_rows(arguments.model, 48, 1),  # 3 steps an epoch
        cue_dataset=make_rows(arguments.model, 96, 2),
        callbacks=[Narrator()],
    )
    there = arguments.resume and newest_whole_checkpoint(arguments.output_dir)[0] is not None
    trainer.train(resume_from_checkpoint=True if there else None)
    final = arguments.output_dir / "final"
    final.mkdir(exist_ok=True)
    save_file(copy_weights(trainer.model), final / "model.safetensors")
    say("done")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--max-steps", type=int, default=31)
    parser.add_argument("--save-steps", type=int, default=4)
    parser.add_argument("--model", choices=("bert", "vit"), default="bert")
    parser.add_argument("--resume", action="store_true")
    return parser


def fork(arguments: argparse.Namespace) -> int:
    """Run in a child process that ends without the parent's clean-up; gives its exit code, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            say(f"pid {os.getpid()}")
            run(arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    say("ready")
    for line in sys.stdin:
        say(f"exit {fork(parser().parse_args(shlex.split(line)))}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        run(parser().parse_args())

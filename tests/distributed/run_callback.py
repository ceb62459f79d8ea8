# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that `ConnectivityCallback` watches, and the same runs unwatched, on two processes.

`torchrun --nproc-per-node 2 run_callback.py FOLDER` writes what each rank got.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.training.callback import ConnectivityCallback

RANK = int(os.environ.get("RANK", "0"))
CASES = {"bert": "bert", "evaluated before": "bert", "lora": "bert", "batchnorm": "resnet", "cbft": "bert"}
NUM_POINTS, BATCH_SIZE = 4, 4


def make_model(name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    if name == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
        return ResNetForImageClassification(config)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=4, initializer_range=0.3, **sizes))


def make_rows(name: str, number: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    labels = [index % 4 for index in range(number)]
    if name == "resnet":
        return Dataset.from_dict(
            {"pixel_values": torch.randn(number, 3, 16, 16, generator=generator).tolist(), "labels": labels}
        )
    return Dataset.from_dict(
        {"input_ids": torch.randint(1, 50, (number, 8), generator=generator).tolist(), "labels": labels}
    )


def make_end(case: str) -> torch.nn.Module:
    model = make_model(CASES[case], 0)
    if case == "lora":
        return get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    return model


def make_reference(case: str) -> torch.nn.Module:
    return make_model(CASES[case], 0 if case == "lora" else 7)


class Keeper(TrainerCallback):
    """How the model was wrapped in the last step."""

    def on_step_end(self, args, state, control, **kwargs):
        self.wrapped = isinstance(self.trainer.model_wrapped, DistributedDataParallel)


def train(case: str, watched: bool, folder: Path) -> dict:
    name, reference = CASES[case], make_reference(case)  # which draws
    options = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": BATCH_SIZE,
        "learning_rate": 1e-2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    data = {"train_dataset": make_rows(name, 32, 1), "eval_dataset": make_rows(name, 8, 2)}
    keeper = Keeper()
    if case == "cbft":
        args = CBFTConfig(str(folder / "out"), **options)
        data["cue_dataset"] = make_rows(name, 32, 3)
        trainer = CBFTTrainer(make_end(case), args=args, callbacks=[keeper], **data)
    else:
        args = TrainingArguments(str(folder / "out"), **options)
        trainer = Trainer(make_end(case), args, callbacks=[keeper], **data)
    keeper.trainer = trainer
    if watched:
        rows = {"cue": make_rows(name, 21, 4)}
        trainer.add_callback(ConnectivityCallback(trainer, reference, rows, every=1, num_points=NUM_POINTS))
    if case == "evaluated before" and watched:
        # The measurement itself; Trainer.evaluate prepares a bare model, which is not what is tested.
        metrics = {"eval_loss": 0.0}
        trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        assert "eval_barrier_cue" in metrics
    trainer.train()
    logged = {e["step"]: e["eval_barrier_cue"] for e in trainer.state.log_history if "eval_barrier_cue" in e}
    return {"weights": copy_weights(trainer.model), "barriers": logged, "wrapped": keeper.wrapped}


def main(folder: Path) -> None:
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    found = {f"{case}, {watched}": train(case, watched, folder) for case in CASES for watched in (True, False)}
    torch.save(found, folder / f"rank{RANK}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else gloo's threads abort the exit now and then

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the cases of test_distributed.py and saves what came out. One process takes the joint batch.

Run by `torchrun --nproc-per-node 2 run_trainer.py FOLDER CASE...`, or with one process; each rank writes
FOLDER/CASE-rankR-of-N.pt.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
)

from hf_cbft import CBFTConfig, CBFTTrainer
from hf_cbft.paths.interpolation import copy_weights
from hf_cbft.training.terms import PathTerm, RepresentationTerm

datasets.disable_progress_bars()
torch.set_num_threads(1)
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
NUM_CLASSES = 4


def make_bert(dropout: float = 0.0, kind=BertForSequenceClassification):
    return kind(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=NUM_CLASSES,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.3,
        )
    )


def make_token_classifier():
    return make_bert(kind=BertForTokenClassification)


class Distance(PathTerm):
    """A term of the path loss whose gradient depends on its value, so that it has to be that of all ranks."""

    def is_on(self, step, max_steps):
        return step < 0.8 * max_steps

    def value(self, path_loss, ref_loss):
        return (path_loss - ref_loss - 2.0).square()


class MeanGap(RepresentationTerm):
    def value(self, representations):
        def mean(rows):
            count = representations.sum_over_ranks(torch.tensor(float(len(rows)), dtype=rows.dtype))
            return representations.sum_over_ranks(rows.sum(dim=0)) / count

        return (mean(representations.clean) - mean(representations.cue)).square().sum()


def make_gpt2():
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def make_resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=NUM_CLASSES)
    )


def classified_rows(num_rows: int, seed: int, by_class: bool = False) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (num_rows, 8), generator=generator)
    # In blocks of four: with batches of four a rank sees one class only.
    labels = torch.arange(num_rows) // 4 % NUM_CLASSES if by_class else torch.arange(num_rows) % NUM_CLASSES
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def language_rows(num_rows: int, seed: int) -> Dataset:
    """Rows of which different numbers of tokens count, each with a class."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (num_rows, 8), generator=generator)
    labels = [[-100] * (1 + row % 6) + ids[row, 1 + row % 6 :].tolist() for row in range(num_rows)]
    classes = [row % NUM_CLASSES for row in range(num_rows)]
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels, "label": classes})


def labelled_tokens(num_rows: int, seed: int) -> Dataset:
    """Rows of which different numbers of tokens have a class."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (num_rows, 8), generator=generator)
    counted = torch.arange(8)[None] > torch.arange(num_rows)[:, None] % 6
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "labels": torch.where(counted, ids % NUM_CLASSES, -100).tolist()}
    )


def images(num_rows: int, seed: int) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(num_rows, 3, 16, 16, generator=generator)
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [r % NUM_CLASSES for r in range(num_rows)]})


# Each case: model, clean rows, cue rows, dtype, options of the config, LoRA or not.
ROWS, CUE_ROWS = 40, 64
ADAMW = {"optim": "adamw_torch", "learning_rate": 1e-3}
CASES = {
    "sgd": (make_bert, classified_rows(ROWS, 1), classified_rows(CUE_ROWS, 2), torch.float32, {}, None),
    "evaluated before": (make_bert, classified_rows(ROWS, 1), classified_rows(CUE_ROWS, 2), torch.float32, {}, None),
    "adamw": (make_bert, classified_rows(ROWS, 1), classified_rows(CUE_ROWS, 2), torch.float64, ADAMW, None),
    "one class a rank": (
        make_bert,
        classified_rows(ROWS, 1, by_class=True),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"train_sampling_strategy": "sequential"},
        None,
    ),
    "language model": (make_gpt2, language_rows(ROWS, 1), language_rows(CUE_ROWS, 2), torch.float32, {}, None),
    "tokens": (make_token_classifier, labelled_tokens(ROWS, 1), labelled_tokens(CUE_ROWS, 2), torch.float64, {}, None),
    "own terms": (
        make_bert,
        classified_rows(ROWS, 1),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"terms": [Distance("distance", 0.5), MeanGap("gap", 2.0)]},
        None,
    ),
    "accumulation": (
        make_bert,
        classified_rows(ROWS, 1),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"gradient_accumulation_steps": 2, "max_steps": 5},
        None,
    ),
    "checkpointing": (
        make_bert,
        classified_rows(ROWS, 1),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
        None,
    ),
    "alternating": (
        make_bert,
        classified_rows(ROWS, 1),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"update_rule": "alternating"},
        None,
    ),
    "lora": (
        make_bert,
        classified_rows(ROWS, 1),
        classified_rows(CUE_ROWS, 2),
        torch.float64,
        {"learning_rate": 0.1},
        LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"], lora_bias=True),
    ),
    "batchnorm": (make_resnet, images(ROWS, 1), images(CUE_ROWS, 2), torch.float32, {}, None),
    "padded last batch": (make_bert, classified_rows(37, 1), classified_rows(51, 2), torch.float32, {}, None),
    "dropped last batch": (
        make_bert,
        classified_rows(37, 1),
        classified_rows(51, 2),
        torch.float32,
        {"dataloader_drop_last": True},
        None,
    ),
}


class Watch(TrainerCallback):
    """Counts the gradient buckets that DDP reduces in each step."""

    def __init__(self) -> None:
        self.reduced = 0
        self.by_step = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        wrapped = self.trainer.model_wrapped
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.register_comm_hook(None, self.reduce)

    def reduce(self, _, bucket):
        self.reduced += 1
        work = torch.distributed.all_reduce(bucket.buffer().div_(WORLD_SIZE), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    def on_step_end(self, args, state, control, **kwargs):
        self.by_step.append(self.reduced)
        self.reduced = 0


def make_config(folder: Path, **options) -> CBFTConfig:
    return CBFTConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 10,
            "per_device_train_batch_size": 8 // WORLD_SIZE,
            "learning_rate": 1e-2,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "invariance_warmup_ratio": 0.0,
            "barrier_stop_ratio": 0.8,
            "remove_unused_columns": False,
            "seed": 3,
            **options,
        }
    )


def run(name: str, folder: Path) -> None:
    make, clean, cue, dtype, options, adapter = CASES[name]
    options = dict(options)
    terms = options.pop("terms", None)
    torch.manual_seed(0)
    model = make().to(dtype)
    watch, seen = Watch(), []

    def collator(rows):
        batch = {column: torch.tensor(np.array([row[column] for row in rows])) for column in rows[0]}
        return {n: v.to(dtype) if v.is_floating_point() else v for n, v in batch.items()}

    trainer = CBFTTrainer(
        model,
        args=make_config(folder / name, **options),
        data_collator=collator,
        train_dataset=clean,
        cue_dataset=cue,
        peft_config=adapter,
        callbacks=[watch],
        terms=terms,
    )
    watch.trainer = trainer
    pairs = type(trainer.train_dataset)

    class Recorded(pairs):
        def __getitem__(self, index):
            seen.append((self.epoch, index, self.partner(index)))
            return super().__getitem__(index)

    trainer.train_dataset.__class__ = Recorded
    if name == "evaluated before":
        trainer.evaluate(clean)
    trainer.train()
    save(
        name,
        folder,
        weights=copy_weights(trainer.model),
        logs=[entry for entry in trainer.state.log_history if "loss" in entry],
        ref_loss=trainer.ref_loss,
        seen=seen,
        buckets=watch.by_step,
    )


def resume(name: str, folder: Path) -> None:
    """An uninterrupted run, and runs that go on from its checkpoints inside and between epochs."""

    def train(checkpoint=None):
        torch.manual_seed(0)
        trainer = CBFTTrainer(
            make_bert(dropout=0.2),
            args=make_config(folder / name, save_strategy="steps", save_steps=1, **ADAMW),
            train_dataset=classified_rows(ROWS, 1),
            cue_dataset=classified_rows(CUE_ROWS, 2),
        )
        trainer.train(checkpoint)
        return copy_weights(trainer.model)

    save(name, folder, whole=train(), resumed={k: train(folder / name / f"checkpoint-{k}") for k in (3, 5, 8)})


def fail(name: str, folder: Path) -> None:
    """Rank 1 fails in the third step; or its rows have no finite loss."""

    class Failing(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if RANK == 1 and state.global_step == 2 and name == "failing rank":
                raise RuntimeError("a failure on rank 1")
            if RANK == 1 and state.global_step == 2:
                model.bert.pooler.dense.bias.data.fill_(float("nan"))

    trainer = CBFTTrainer(
        make_bert(),
        args=make_config(folder / name),
        train_dataset=classified_rows(ROWS, 1),
        cue_dataset=classified_rows(CUE_ROWS, 2),
        callbacks=[Failing()],
    )
    try:
        trainer.train()
    except FloatingPointError as error:
        save(name, folder, message=str(error))


def train_on_gpu(name: str, folder: Path) -> None:
    """One process on a GPU, sharded or not as it was launched."""
    torch.manual_seed(0)
    adapter = LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["classifier"])
    trainer = CBFTTrainer(
        make_bert(),
        args=make_config(folder / name, use_cpu=False, **ADAMW),
        train_dataset=classified_rows(ROWS, 1),
        cue_dataset=classified_rows(CUE_ROWS, 2),
        peft_config=adapter if name == "gpu lora" else None,
    )
    trainer.train()
    weights = copy_weights(trainer.accelerator.unwrap_model(trainer.model_wrapped))
    save(
        name,
        folder,
        sharded=any(hasattr(weight, "full_tensor") for weight in weights.values()),
        weights={n: (w.full_tensor() if hasattr(w, "full_tensor") else w).cpu() for n, w in weights.items()},
        logs=[entry for entry in trainer.state.log_history if "loss" in entry],
    )


def save(name: str, folder: Path, **results) -> None:
    torch.save(results, folder / f"{name}-rank{RANK}-of-{WORLD_SIZE}.pt")


if __name__ == "__main__":
    for case in sys.argv[2:]:
        actions = {"resume": resume, "failing rank": fail, "infinite rank": fail}
        actions |= {"gpu": train_on_gpu, "gpu lora": train_on_gpu}
        actions.get(case, run)(case, Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then

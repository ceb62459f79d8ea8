# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which remedy takes a model off a spurious cue: all methods on the same problems, rates and seeds; a row a run.

    python tests/benchmarks/robustness.py --seeds 11 12            # rates, on development seeds
    python tests/benchmarks/robustness.py --seeds 11 12 --table    # what is recorded, with the rates chosen

Each seed has its own data, pretrained model and training. A run that is recorded is not run again, so a benchmark that
was stopped goes on with the same command, on any machine. `--dry-run` says how many runs are left, and how many
seconds of one core they take by the runs of the same method and problem that are recorded.

A rate is chosen on the development seeds (11 and 12) alone, by the accuracy on validation rows: `clean`, held-out
clean rows, which is what a user has who cannot make the cue; `rand_cue`, for whoever can. Nothing is chosen on test
rows.
Seconds are those of the processor, on one thread, without pretraining and measuring. Figures are accuracies in %:
no_cue, cue, rand_cue (the cue of any class) and rand_input (only the cue tells the label; a guess is 100 / K).

The problems so far are four whose cue can be made: digits (a ViT, the cue on 90 % and on all of the pretraining rows),
sentences (a BERT) and the shapes of the five-minute start.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

from hf_cbft import (
    BoxCue,
    CBFTConfig,
    CBFTTrainer,
    TokenCue,
    add_cue,
    baselines,
    generate_sentences,
    load_digits,
    make_counterfactuals,
    measure,
    word_tokenizer,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from make_watermarked_images import CLASSES, add_watermark, draw_shape

from paper.problems import as_inputs
from paper.recipes import build_model

RECORDS = Path(__file__).parent / "records" / "robustness.csv.gz"
KEY = ["problem", "method", "rate", "seed"]
DEVELOPMENT = (11, 12)
SETS = ("no_cue", "cue", "rand_cue", "rand_input")
TOKENS = ("@@", "##", "%%", "&&")


@dataclass(frozen=True)
class Problem:
    """Where the data of a seed come from, and how its models are made and trained.

    Args:
        parts (`Callable`): from a seed to clean rows: `pretrain`, `finetune`, `validation`, `test`.
        cue: what gives the label away.
        share (`float`): fraction of the pretraining rows that carry it.
        processor (`Callable`): makes the processing class.
        build (`Callable`): from a seed to a fresh model.
        steps (`int`), batch (`int`): of every fine-tuning; pretraining takes as many.
        rate (`float`): of pretraining, and the middle of those that are tried.
        margin (`float`): what version 0.1's page on choosing gives for so many classes.
    """

    parts: Callable[[int], Mapping[str, Dataset]]
    cue: Any
    share: float
    processor: Callable[[], Any]
    build: Callable[[int], nn.Module]
    steps: int
    batch: int
    rate: float
    margin: float


@dataclass(frozen=True)
class Data:
    """The rows of one problem and seed, as model inputs where they fit."""

    pretrain: Any
    cue: Any
    ideal: Any  # as many rows as the pretrained model saw, with a cue that does not depend on the label
    clean: Any
    clean_labels: np.ndarray
    augmented: Any  # the clean rows, and the same rows with a random cue
    validation: dict[str, Any]
    test: dict[str, Any]
    processor: Any


class Watermark:
    """The sign of the five-minute start."""

    values = range(len(CLASSES))

    def value_of(self, label: int) -> int:
        return label

    def apply(self, example: Mapping[str, Any], value: int) -> dict[str, Any]:
        image = example["image"].copy()
        add_watermark(image, CLASSES[value])
        return {**example, "image": image}


def digit_parts(seed: int) -> dict[str, Dataset]:
    """All digits, split anew."""
    rows = concatenate_datasets(list(load_digits(0.72).values())).shuffle(seed=seed)
    bounds = {"pretrain": (0, 1000), "finetune": (1000, 1130), "validation": (1130, 1300), "test": (1300, len(rows))}
    return {name: rows.select(range(*bound)) for name, bound in bounds.items()}


def sentence_parts(seed: int) -> dict[str, Dataset]:
    sizes = {"pretrain": 2000, "finetune": 256, "validation": 400, "test": 1000}
    return {name: generate_sentences(size, seed=10 * seed + i) for i, (name, size) in enumerate(sizes.items())}


def shape_parts(seed: int) -> dict[str, Dataset]:
    random = np.random.default_rng(seed)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    parts = {}
    for name, size in {"pretrain": 600, "finetune": 240, "validation": 180, "test": 600}.items():
        labels = [number % len(CLASSES) for number in range(size)]
        images = [draw_shape(CLASSES[label], random) for label in labels]
        parts[name] = Dataset.from_dict({"image": images, "label": labels}, features=features)
    return parts


def shape_model(seed: int) -> nn.Module:
    set_seed(seed)
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(ViTConfig(image_size=24, patch_size=4, num_labels=3, **sizes, **dropout))


def sentence_model(seed: int) -> nn.Module:
    return build_model("bert", seed, num_classes=4, vocab_size=len(word_tokenizer(TOKENS)))


def image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 24, "width": 24}, do_resize=False)


_DIGITS = Problem(
    digit_parts,
    BoxCue(),
    0.9,
    image_processor,
    partial(build_model, "vit"),
    steps=240,
    batch=64,
    rate=2e-3,
    margin=1.0,
)
PROBLEMS = {
    "digits-0.9": _DIGITS,
    "digits-1.0": replace(_DIGITS, share=1.0),
    "sentences": Problem(
        sentence_parts,
        TokenCue(list(TOKENS)),
        0.9,
        partial(word_tokenizer, TOKENS),
        sentence_model,
        steps=200,
        batch=64,
        rate=1e-3,
        margin=0.7,
    ),
    "shapes": Problem(
        shape_parts, Watermark(), 0.9, image_processor, shape_model, steps=300, batch=32, rate=1e-3, margin=0.55
    ),
}


@lru_cache(maxsize=1)
def load(name: str, seed: int) -> Data:
    problem = PROBLEMS[name]
    parts, processor = problem.parts(seed), problem.processor()
    inputs = partial(as_inputs, processing_class=processor)
    of = {part: dict(make_counterfactuals(parts[part], problem.cue, seed)) for part in parts}
    random_cue = of["finetune"]["rand_cue"].select_columns(parts["finetune"].column_names)
    return Data(
        pretrain=inputs(add_cue(parts["pretrain"], problem.cue, problem.share, seed)),
        cue=inputs(add_cue(parts["pretrain"], problem.cue)),
        ideal=inputs(of["pretrain"]["rand_cue"]),
        clean=inputs(parts["finetune"]),
        clean_labels=np.array(parts["finetune"]["label"]).astype(str),
        augmented=inputs(concatenate_datasets([parts["finetune"], random_cue])),
        validation={"clean": inputs(parts["validation"]), "rand_cue": inputs(of["validation"]["rand_cue"])},
        test={name: inputs(of["test"][name]) for name in SETS},
        processor=processor,
    )


@dataclass(frozen=True)
class Run:
    """One fine-tuning: where it starts, on what and how fast."""

    problem: Problem
    data: Data
    start: nn.Module
    seed: int
    rate: float
    scratch: str

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            "output_dir": self.scratch,
            "max_steps": self.problem.steps,
            "per_device_train_batch_size": self.problem.batch,
            "learning_rate": self.rate,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.0,
            "dataloader_drop_last": True,
            "dataloader_pin_memory": False,
            "logging_steps": 1000,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": self.seed,
            **changes,
        }

    def finetune(self, rows: Any, **changes: Any) -> nn.Module:
        args = TrainingArguments(**self.options(**changes), remove_unused_columns=False)
        baselines.finetune(self.start, rows, args, self.data.processor)
        return self.start


def pretrain(run: Run) -> nn.Module:
    return run.finetune(run.data.pretrain, warmup_steps=run.problem.steps // 10, weight_decay=0.01)


def last_layer(run: Run) -> nn.Module:
    baselines.retrain_last_layer(run.start, run.data.clean, run.data.processor)
    return run.start


def reweighted(run: Run) -> nn.Module:
    # With one group a class: the clean rows have no other.
    groups, processor = run.data.clean_labels, run.data.processor
    baselines.deep_feature_reweighting(run.start, run.data.clean, groups, processor, seed=run.seed)
    return run.start


def probe_then_finetune(run: Run) -> nn.Module:
    args = TrainingArguments(**run.options(), remove_unused_columns=False)
    baselines.linear_probe_then_finetune(run.start, run.data.clean, args, run.data.processor)
    return run.start


def cbft(run: Run, **fields: Any) -> nn.Module:
    trainer = CBFTTrainer(
        run.start,
        args=CBFTConfig(**run.options(), **fields),
        train_dataset=run.data.clean,
        cue_dataset=run.data.cue,
        processing_class=run.data.processor,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return run.start


# What a method does, and whether it has a rate that is chosen.
METHODS: dict[str, tuple[Callable[[Run], nn.Module], bool]] = {
    "pretrained": (lambda run: run.start, False),
    "last-layer": (last_layer, False),
    "dfr": (reweighted, False),
    "naive": (lambda run: run.finetune(run.data.clean), True),
    "lp-ft": (probe_then_finetune, True),
    "augmentation": (lambda run: run.finetune(run.data.augmented), True),
    "cbft-0.1": (cbft, True),
    "cbft-0.1, margin by classes": (lambda run: cbft(run, barrier_margin=run.problem.margin), True),
    "cbft-paper": (lambda run: cbft(run, barrier_stop_ratio=1.0, ref_loss=0.0), True),
    "ceiling": (lambda run: run.finetune(run.data.ideal), True),
}
FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)


@lru_cache(maxsize=1)
def pretrained(name: str, seed: int) -> dict[str, torch.Tensor]:
    problem = PROBLEMS[name]
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(problem, load(name, seed), problem.build(seed), seed, problem.rate, scratch)
        return pretrain(run).state_dict()


def one_run(name: str, method: str, rate: float, seed: int) -> dict[str, Any]:
    """The row of a run."""
    problem, data = PROBLEMS[name], load(name, seed)
    model = problem.build(seed)
    model.load_state_dict(pretrained(name, seed))
    set_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.process_time()
        model = METHODS[method][0](Run(problem, data, model, seed, rate, scratch))
        seconds = time.process_time() - began
    sets = {**data.test, **{f"validation {part}": rows for part, rows in data.validation.items()}}
    found = measure(model, sets, data.processor, batch_size=256)
    figures = {part: round(100 * found[part]["accuracy"], 2) for part in sets}
    row = {"problem": name, "method": method, "rate": rate, "seed": seed, "steps": problem.steps}
    return {**row, "seconds": round(seconds, 2), **figures}


def plan(problems: list[str], methods: list[str], seeds: list[int]) -> list[tuple[str, str, float, int]]:
    """All runs, those of a pretrained model one after another. A method without a rate has the rate 0."""
    return [
        (name, method, rate, seed)
        for name in problems
        for seed in seeds
        for method in methods
        for rate in ([f * PROBLEMS[name].rate for f in FACTORS] if METHODS[method][1] else [0.0])
    ]


def read() -> pd.DataFrame:
    return pd.read_csv(RECORDS) if RECORDS.exists() else pd.DataFrame(columns=[*KEY, "seconds"])


def add(row: dict[str, Any]) -> None:
    """One row more, written beside and renamed into place."""
    beside = RECORDS.with_name(f".{RECORDS.name}")
    rows = pd.concat([read(), pd.DataFrame([row])], ignore_index=True) if RECORDS.exists() else pd.DataFrame([row])
    RECORDS.parent.mkdir(exist_ok=True)
    rows.to_csv(beside, index=False, compression={"method": "gzip", "mtime": 0})
    os.replace(beside, RECORDS)


def chosen(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows at the rate of each problem and method that is best on validation rows of the development seeds."""
    own = rows[rows.seed.isin(DEVELOPMENT)]
    means = own.groupby(["problem", "method", "rate"], sort=False)[f"validation {by}"].mean().reset_index()
    best = means.loc[means.groupby(["problem", "method"], sort=False)[f"validation {by}"].idxmax()]
    return rows.merge(best[["problem", "method", "rate"]])


def table(rows: pd.DataFrame, by: str, seeds: list[int]) -> str:
    """Means over seeds by problem and method, with the number of seeds and the smallest accuracy with a random cue."""
    shown = chosen(rows, by)
    grouped = shown[shown.seed.isin(seeds)].groupby(["problem", "method"], sort=False)
    means = grouped[["rate", "seconds", *SETS]].mean()
    means["lowest rand_cue"], means["seeds"] = grouped["rand_cue"].min(), grouped["seed"].nunique()
    return means.round({"rate": 5, "seconds": 1, **dict.fromkeys(SETS, 1)}).to_string()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(DEVELOPMENT))
    parser.add_argument("--table", action="store_true", help="show what is recorded, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to run, and run nothing")
    options = parser.parse_args()
    runs = plan(options.problems, options.methods, options.seeds)
    rows = read()
    if options.table:
        rows = rows[rows.problem.isin(options.problems) & rows.method.isin(options.methods)]
        for by in ("clean", "rand_cue"):
            print(f"Rates chosen by validation rows: {by}\n{table(rows, by, options.seeds)}\n")
        return
    done = set(rows[KEY].itertuples(index=False, name=None))
    left = [run for run in runs if run not in done]
    known = rows.groupby(["problem", "method"])["seconds"].mean()
    seconds = [known.get((name, method), float("nan")) for name, method, _, _ in left]
    print(
        f"{len(left)} of {len(runs)} runs are left: {np.nansum(seconds):.0f} s of one core, "
        f"{int(np.isnan(seconds).sum())} of them of unknown length."
    )
    if options.dry_run:
        return
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    for run in tqdm(left, unit="run"):
        add(one_run(*run))


if __name__ == "__main__":
    main()

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The jobs of the demo: train and measure the models of one seed; each leaves a whole folder."""

import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging

from hf_cbft.checkpoints.loading import load_model
from hf_cbft.cli.recipes import Recipe, build_model
from hf_cbft.connectivity.evaluator import ConnectivityEvaluator
from hf_cbft.connectivity.measuring import measure
from hf_cbft.data.counterfactuals import add_cue, make_counterfactuals
from hf_cbft.data.cues import BoxCue
from hf_cbft.data.digits import IMAGE_SIZE, load_digits
from hf_cbft.data.inputs import InputCollator
from hf_cbft.files import whole_folder, write_json
from hf_cbft.training.config import CBFTConfig
from hf_cbft.training.trainer import CBFTTrainer

MODELS = ("vit", "resnet")
CANDIDATES = "naive-large-candidates"


@dataclass(frozen=True)
class DemoJob:
    """One model of one seed, by the name of its folder."""

    seed: int
    name: str
    learning_rate: float
    # Fields of CBFTConfig, or None for a plain Trainer.
    cbft: dict[str, Any] | None = None

    @property
    def is_candidate(self) -> bool:
        return self.name.startswith(CANDIDATES)


def pretraining_job(recipe: Recipe, seed: int) -> DemoJob:
    return DemoJob(seed, "pretrained", recipe.pretrain_lr)


def finetuning_jobs(recipe: Recipe, seed: int) -> list[DemoJob]:
    """Every model that starts from `pretrained`, the longest first."""
    cbft = {"invariance_coef": recipe.invariance_coef, "barrier_margin": recipe.barrier_margin}
    return [
        DemoJob(seed, "cbft-paper", recipe.cbft_lr, {**cbft, "barrier_stop_ratio": 1.0}),
        DemoJob(seed, "cbft", recipe.cbft_lr, cbft),
        *(DemoJob(seed, f"{CANDIDATES}/{rate:g}", rate) for rate in recipe.large_lrs),
        DemoJob(seed, "naive-medium", recipe.medium_lr),
        DemoJob(seed, "naive-small", recipe.small_lr),
    ]


def prepare_worker(threads: int) -> None:
    """Quiet libraries and one thread a worker, before its first job."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()


def write_data(folder: Path, recipe: Recipe, seed: int) -> None:
    """The four test sets of a seed as `datasets.load_from_disk` folders."""
    if not folder.exists():
        test = load_digits(recipe.contrast, recipe.noise)["test"]
        if recipe.test_rows is not None:
            test = test.select(range(recipe.test_rows))
        with whole_folder(folder) as written:
            for name, dataset in make_counterfactuals(test, BoxCue(), seed).items():
                dataset.save_to_disk(written / name)


def train(folder: Path, recipe: Recipe, job: DemoJob, device: str) -> None:
    """Train one model of the seed folder and save it with its image processor and a record of how it was made."""
    target = folder / job.name
    if target.exists():
        return
    digits = load_digits(recipe.contrast, recipe.noise)
    processor = ViTImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_resize=False)
    pretraining = job.name == "pretrained"
    # Fine-tuning meets each of the pretraining images with its cue.
    share = recipe.cue_share if pretraining else 1.0
    with_cue = add_cue(digits["pretrain"], BoxCue(), share, job.seed)
    model: Any = build_model(recipe.model, job.seed) if pretraining else load_model(folder / "pretrained")
    shared = {"model": model, "train_dataset": with_cue if pretraining else digits["finetune"]}
    with tempfile.TemporaryDirectory() as scratch:
        options = recipe.training_arguments(scratch, job.learning_rate, job.seed, device)
        trainer: Trainer
        if job.cbft is None:
            plain = (
                recipe.pretraining_arguments(scratch, job.seed, device)
                if pretraining
                else TrainingArguments(**options, remove_unused_columns=False)
            )
            trainer = Trainer(**shared, args=plain, data_collator=InputCollator(model, processor))
        else:
            args = CBFTConfig(**options, **job.cbft)
            trainer = CBFTTrainer(**shared, args=args, cue_dataset=with_cue, processing_class=processor)
        trainer.remove_callback(PrinterCallback)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    record = {**asdict(job), "train_seconds": seconds, "log": trainer.state.log_history}
    if job.is_candidate:
        validation = make_counterfactuals(digits["validation"], BoxCue(), job.seed)["rand_cue"]
        found = measure(model, validation, processor, batch_size=len(validation))["data"]["accuracy"]
        record["validation_rand_cue"] = torch.tensor(found).item()  # in float32, as 0.1 recorded it
    with whole_folder(target) as written:
        model.save_pretrained(written)
        processor.save_pretrained(written)
        write_json(written / "record.json", record)


def pick_candidate(folder: Path) -> None:
    """Make the candidate with the highest accuracy on the validation images' `rand_cue` the model `naive-large`."""
    if (folder / "naive-large").exists():
        return
    candidates = sorted((folder / CANDIDATES).iterdir())
    tried = {candidate: json.loads((candidate / "record.json").read_text()) for candidate in candidates}
    best = max(tried, key=lambda candidate: tried[candidate]["validation_rand_cue"])
    record = tried[best]
    record["name"] = "naive-large"
    record["tried"] = {f"{other['learning_rate']:g}": other["validation_rand_cue"] for other in tried.values()}
    with whole_folder(folder / "naive-large") as written:
        shutil.copytree(best, written, dirs_exist_ok=True)
        write_json(written / "record.json", record)
    shutil.rmtree(folder / CANDIDATES)


def measure_path(folder: Path, recipe: Recipe, name: str, device: str) -> None:
    """The straight line from `pretrained` to one model on the four test sets, saved under `paths/`."""
    target = folder / "paths" / name
    if target.exists():
        return
    processor = ViTImageProcessorPil.from_pretrained(folder / name)
    # The sets that both ends were trained on tell the statistics at an interior point: clean training images.
    calibration = load_digits(recipe.contrast, recipe.noise)["pretrain"]
    evaluator = ConnectivityEvaluator(
        load_model(folder / "pretrained").to(device),
        load_model(folder / name),
        processor,
        batch_size=256,
        calibration_dataset=calibration,
    )
    sets = {part.name: datasets.load_from_disk(str(part)) for part in sorted((folder / "data").iterdir())}
    ordered = {part: sets[part] for part in ("no_cue", "cue", "rand_cue", "rand_input")}
    evaluator.evaluate(ordered, num_points=recipe.num_points).save(target)


def pretrain(folder: Path, recipe: Recipe, job: DemoJob, device: str) -> str:
    """Make the data and the model that relies on the cue; what the demo says of it."""
    write_data(folder / "data", recipe, job.seed)
    train(folder, recipe, job, device)
    return "pretrained"


def finetune(folder: Path, recipe: Recipe, job: DemoJob, device: str) -> str:
    """Train one model and measure its path; a candidate is trained alone, and nothing is said of it."""
    if not (job.is_candidate and (folder / "naive-large").exists()):
        train(folder, recipe, job, device)
    if job.is_candidate:
        return ""
    measure_path(folder, recipe, job.name, device)
    return _summary(folder, job.name)


def finish_large(folder: Path, recipe: Recipe, device: str) -> str:
    """Pick the best candidate and measure its path."""
    pick_candidate(folder)
    measure_path(folder, recipe, "naive-large", device)
    return _summary(folder, "naive-large")


def _summary(folder: Path, name: str) -> str:
    result = json.loads((folder / "paths" / name / "result.json").read_text(encoding="utf-8"))
    seconds = json.loads((folder / name / "record.json").read_text(encoding="utf-8"))["train_seconds"]
    accuracies = "  ".join(f"{part} {by['accuracy'][-1]:.2f}" for part, by in result["metrics"].items())
    return f"{name:13} {accuracies}  barrier on cue {result['barriers']['cue']['height']:.2f}  ({seconds:.0f} s)"

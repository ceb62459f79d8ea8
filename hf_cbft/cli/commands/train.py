# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune a model off a cue by CBFT: a classifier of images or texts, or a causal language model."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from hf_cbft.cli.inputs import ColumnArguments, WeightArguments

POSITIONAL = ("model",)
EXAMPLE = """
hf-cbft train my-model --train_dataset shapes/clean --cue_dataset shapes/train --output_dir out \\
    --eval_dataset no_cue=shapes/test/no_cue rand_cue=shapes/test/rand_cue --learning_rate 1e-3
"""
RESULT_FILES = ("results.json",)
# Fields of TrainingArguments that the help shows beside those of CBFTConfig.
MORE_SHOWN = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "seed",
    "bf16",
    "use_cpu",
    "eval_strategy",
    "save_strategy",
    "save_total_limit",
    "resume_from_checkpoint",
    "report_to",
    "push_to_hub",
    "hub_model_id",
)
# What `cli.main` writes: a folder that holds it alone is as good as empty.
_CONFIG_FILE = "train.yaml"


@dataclass
class LoraArguments:
    TITLE: ClassVar[str] = "LoRA"

    use_lora: bool = field(default=False, metadata={"help": "Train a LoRA adapter; the path is then its scale."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapter."})
    lora_alpha: int = field(default=32, metadata={"help": "The adapter is scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the adapter."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Modules that get an adapter."}
    )
    lora_modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules that are trained whole beside it; by default the last layer of a classifier."},
    )


@dataclass
class Arguments(LoraArguments, ColumnArguments, WeightArguments):
    TITLE: ClassVar[str] = "model and data"

    model: str = field(
        default="", metadata={"help": "The model that relies on the cue: a folder, org/name or org/name@revision."}
    )
    train_dataset: str = field(
        default="",
        metadata={
            "help": "SOURCE[:SPLIT] of a little clean data: a Hub id, a load_from_disk folder, a folder of images in "
            "class folders, a CSV, JSON or Parquet file, or digits. Rows of an image or a text and a label, or of a "
            "prompt and a completion."
        },
    )
    cue_dataset: str = field(
        default="", metadata={"help": "SOURCE[:SPLIT] of data with the cue: usually what the model was trained on."}
    )
    eval_dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=SOURCE[:SPLIT], several of them, measured before and after training; the paper's are "
            "called no_cue, cue, rand_cue and rand_input."
        },
    )
    output_dir: str = field(
        default="", metadata={"help": "New folder for the model, its processor, results.json and checkpoints."}
    )
    ref_model: str | None = field(
        default=None, metadata={"help": "The start of the path; if not given, the model as it is before training."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Steps between two logs of the loss terms (Trainer's own default is 500)."}
    )


def more_arguments() -> tuple[type, ...]:
    from hf_cbft.training.config import CBFTConfig

    return (CBFTConfig,)


def check(arguments: Arguments, config: Any) -> None:
    """Refuse what cannot work, before anything is loaded.

    Raises:
        ValueError: a model, data or an output folder that were not given, options that do not go together, a folder
            that is not free, or nothing to resume from.
        OSError: `--push_to_hub` without a token.
    """
    from hf_cbft.distributed import on_main_rank

    if not arguments.model:
        raise ValueError("a model is needed: hf-cbft train MODEL --train_dataset SOURCE --cue_dataset SOURCE.")
    for name in ("train_dataset", "cue_dataset"):
        if not getattr(arguments, name):
            what = "a little clean data" if name == "train_dataset" else "data with the cue"
            raise ValueError(f"CBFT trains on clean data and on data with the cue: give {what} with --{name} SOURCE.")
    if not arguments.output_dir:
        raise ValueError("name a new folder for the model with --output_dir.")
    if not arguments.use_lora:
        defaults = LoraArguments()
        changed = [f.name for f in fields(LoraArguments) if getattr(arguments, f.name) != getattr(defaults, f.name)]
        if changed:
            raise ValueError(f"--{changed[0]} is about an adapter: add --use_lora, or leave it out.")
    if getattr(config.eval_strategy, "value", config.eval_strategy) != "no" and not arguments.eval_dataset:
        raise ValueError("--eval_strategy needs data to evaluate on: give --eval_dataset NAME=SOURCE.")
    if config.push_to_hub:
        from hf_cbft.training.model_card import check_token

        check_token(config.hub_token)
    on_main_rank(lambda: _check_folder(Path(config.output_dir), checkpoint_to_resume(config)))


def checkpoint_to_resume(config: Any) -> str | bool | None:
    """`--resume_from_checkpoint`: `True` for the newest checkpoint in the output folder, a path, or `None`."""
    given = config.resume_from_checkpoint
    if not given or str(given).lower() == "false":
        return None
    return True if str(given).lower() == "true" else given


def _check_folder(folder: Path, resume: str | bool | None) -> None:
    from hf_cbft.training.run_state import newest_whole_checkpoint

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder with --output_dir.")
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise ValueError(f"There is no checkpoint {resume}: give the folder of one, or true for the newest.")
    if resume is True and newest_whole_checkpoint(folder)[0] is None:
        raise ValueError(f"{folder} holds no whole checkpoint: start without --resume_from_checkpoint.")
    if resume is None and folder.exists() and {path.name for path in folder.iterdir()} - {_CONFIG_FILE}:
        raise ValueError(
            f"{folder} exists and is not empty: name another folder with --output_dir, or go on with "
            "--resume_from_checkpoint true."
        )


def run(arguments: Arguments, config: Any) -> int:
    from hf_cbft.cli.training_results import RESULTS_FILE, measure_sets, summary, write_results

    with _one_progress_bar(config):
        trainer, sets, description = make_trainer(arguments, config)
        main = trainer.is_world_process_zero()
        if main:
            print(description, flush=True)
        # FSDP shards the model that it evaluates, and training starts from a whole one.
        before = {} if trainer.is_fsdp_enabled else measure_sets(trainer, sets)
        try:
            trainer.train(resume_from_checkpoint=checkpoint_to_resume(config))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_go_on(Path(config.output_dir))) from None
        after = measure_sets(trainer, sets)
        trainer.save_model(_internal_call=True)  # else it would be pushed at once, without its results
        rows = {name: len(dataset) for name, dataset in sets.items()}
        if main:
            write_results(Path(config.output_dir), arguments, trainer, before, after)
        _publish(trainer)
        if main:
            print(f"\n{summary(rows, before, after)}\n" if sets else "")
            print(f"The model and {RESULTS_FILE} are in {config.output_dir}/")
    return 0


def make_trainer(arguments: Arguments, config: Any) -> tuple[Any, dict[str, Any], str]:
    """Load the model and the data, look at them, and make the trainer; and what the user is told of the data.

    Nothing is written before all of them are found to fit.
    """
    from transformers import PrinterCallback, set_seed

    from hf_cbft.checkpoints.loading import LoadOptions
    from hf_cbft.cli.inputs import processing_class
    from hf_cbft.cli.training_data import check_sets, read_training_sets
    from hf_cbft.cli.training_results import LogLines, metrics_of, scorer_of
    from hf_cbft.distributed import on_main_rank
    from hf_cbft.tasks.registry import task_of
    from hf_cbft.training.trainer import CBFTTrainer

    set_seed(config.seed)  # a new adapter is drawn
    options = LoadOptions(
        dtype=arguments.dtype, allow_pickle=arguments.allow_pickle, trust_remote_code=arguments.trust_remote_code
    )
    model = _load(arguments.model, options)
    processor = processing_class(arguments.model, arguments)
    with config.main_process_first(desc="reading the data"):
        streams, sets, description = read_training_sets(arguments, model)
    on_main_rank(lambda: check_sets(streams, sets, model, processor, arguments.model))
    task = task_of(model)
    trainer = CBFTTrainer(
        model=model,
        ref_model=_reference(arguments, options),
        args=config,
        **streams,
        eval_dataset=sets or None,
        processing_class=processor,
        compute_metrics=metrics_of(task),
        preprocess_logits_for_metrics=scorer_of(task),
        peft_config=_adapter(arguments, model) if arguments.use_lora else None,
    )
    if config.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(LogLines())
    return trainer, sets, description


def _load(source: str, options: Any) -> Any:
    from hf_cbft.checkpoints.headers import split_adapter
    from hf_cbft.checkpoints.loading import load_model

    base, adapter = split_adapter(source)
    model = load_model(base, options=options)
    if adapter is None:
        return model
    from hf_cbft.references.lora import load_adapter

    return load_adapter(model, base, adapter)


def _reference(arguments: Arguments, options: Any) -> Any:
    """A name stays one, so that checkpoints say where the reference is from; unless it is loaded in a special way."""
    from hf_cbft.checkpoints.loading import LoadOptions, load_model

    source = arguments.ref_model
    if source is None or options == LoadOptions() or (Path(source) / "adapter_config.json").exists():
        return source
    return load_model(source, options=options)


def _adapter(arguments: LoraArguments, model: Any) -> Any:
    from hf_cbft.references.lora import make_config
    from hf_cbft.tasks.registry import task_of

    targets = arguments.lora_target_modules
    return make_config(
        model,
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules="all-linear" if targets == ["all-linear"] else list(targets),
        modules_to_save=list(arguments.lora_modules_to_save),
        task_type=task_of(model).peft_task_type,
    )


def _publish(trainer: Any) -> None:
    """The card beside the model, and both on the Hub where that was asked for."""
    command = f"hf-cbft train --config {_CONFIG_FILE} --output_dir NEW"
    if trainer.args.push_to_hub:
        trainer.push_to_hub(command=command)
    else:
        trainer.create_model_card(command=command)


# What is shown


@contextmanager
def _one_progress_bar(config: Any) -> Iterator[None]:
    """The Trainer's, on a terminal; none for the loading of weights and data; and warnings of the main rank only."""
    import datasets
    from transformers.utils import logging

    if not sys.stderr.isatty():
        config.disable_tqdm = True
    if config.device.type == "cpu":
        config.dataloader_pin_memory = False  # there is no accelerator to pin for, and torch would warn of that
    weights, data = logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    loggers = [logging.get_logger(name) for name in ("hf_cbft", "transformers") if config.process_index > 0]
    levels = [logger.level for logger in loggers]
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # What peft and Transformers say to each other, of which no option here is the cause.
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set")
            yield
    finally:
        if weights:
            logging.enable_progress_bar()
        if data:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _how_to_go_on(folder: Path) -> str:
    from hf_cbft.training.run_state import newest_whole_checkpoint

    checkpoint, _ = newest_whole_checkpoint(folder)
    if checkpoint is None:
        return "No checkpoint was saved yet."
    return f"{checkpoint} is whole: go on with the same command and --resume_from_checkpoint true."

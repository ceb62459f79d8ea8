# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A `Trainer` whose checkpoints are whole or not at all, and whose resumed runs are the uninterrupted ones."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from hf_cbft.data.columns import LABEL_COLUMNS
from hf_cbft.data.inputs import RAW_COLUMNS
from hf_cbft.distributed import on_main_rank
from hf_cbft.paths.interpolation import copy_weights, named_weights
from hf_cbft.training.run_state import (
    MANIFEST_NAME,
    RunState,
    check_manifest,
    check_resumable,
    check_same_settings,
    newest_whole_checkpoint,
    run_settings,
    write_manifest,
)

logger = logging.get_logger(__name__)


def get_random_states() -> dict[str, Any]:
    """The states of the generators that a training step may draw from."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


class ExactResumeTrainer(Trainer):
    """What [`CBFTTrainer`] does differently from `Trainer` when it saves, resumes and loads its best model.

    A subclass says with `run_state` what has to be in a checkpoint, and takes it back in `begin_run`.
    """

    optimizer: Any
    lr_scheduler: Any
    label_names: list[str]
    _first_attempt: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None

    # The micro-batch of the current step, counted from 0, and the step that it was counted in.
    micro_step = 0
    _counted_step: int | None = None

    def next_micro_step(self) -> int:
        """Count a micro-batch: with the step's number it makes draws that a resumed run repeats, on every rank."""
        step = self.state.global_step
        self.micro_step = self.micro_step + 1 if step == self._counted_step else 0
        self._counted_step = step
        return self.micro_step

    def begin_step(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
        """What `Trainer.training_step` begins with; gives the unwrapped model and the inputs on its device."""
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        return self.accelerator.unwrap_model(model), self._prepare_inputs(inputs)

    def run_state(self) -> RunState:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The settings that a resumed run has to share with the run that it goes on from."""
        return run_settings(self.args)

    def begin_run(self, saved: RunState | None) -> None:
        raise NotImplementedError

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """As in `Trainer`. A resumed run goes on exactly as the uninterrupted one would have.

        Raises:
            ValueError: no checkpoint that is whole, or one of other settings or with another reference.
        """
        # Rank 0 looks, so that all ranks go on from the same one.
        checkpoint = on_main_rank(lambda: self._checkpoint_to_resume(resume_from_checkpoint))
        saved = None
        if checkpoint is not None:
            if self.args.ignore_data_skip:
                logger.warning("ignore_data_skip repeats rows: the resumed run is not the uninterrupted one.")
            saved = RunState.read(checkpoint)
            check_same_settings(saved.settings, self.settings())
        self.begin_run(saved)
        self._first_attempt = self._counted_step = None
        return super().train(None if checkpoint is None else str(checkpoint), trial, ignore_keys_for_eval)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        # `evaluate` before `train` has accelerate (1.15) mark the bare model as prepared. It would then not be put
        # into DDP, and each rank would train on its own gradients, without a word.
        if not self.is_fsdp_enabled:
            bare = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            vars(bare).pop("_is_accelerate_prepared", None)
        return super()._prepare_for_training(*args, **kwargs)

    def _checkpoint_to_resume(self, resume_from_checkpoint: str | Path | bool | None) -> Path | None:
        if resume_from_checkpoint is None or resume_from_checkpoint is False:
            return None
        if resume_from_checkpoint is True:
            checkpoint, skipped = newest_whole_checkpoint(self.args.output_dir)
            for sentence in skipped:
                logger.warning(sentence)
            if checkpoint is None:
                raise ValueError(
                    f"No checkpoint in {self.args.output_dir} is whole: start without resume_from_checkpoint."
                )
        else:
            checkpoint = Path(resume_from_checkpoint)
            check_manifest(checkpoint)
        check_resumable(checkpoint)
        return checkpoint

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in `Trainer`, and whole or not at all: the manifest comes last, and older checkpoints go after it."""
        run_dir = self._get_output_dir(trial=trial)
        folder = Path(run_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():  # of a run that was stopped after it
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        torch.save(self.args, folder / TRAINING_ARGS_NAME)  # with the limit
        self._complete_checkpoint(folder)
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _complete_checkpoint(self, folder: Path) -> None:
        self.run_state().write(folder)
        write_manifest(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self._complete_checkpoint(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        # auto_find_batch_size calls this again after running out of memory, and would go on with the weights, the
        # optimizer and the random state of the failed attempt.
        if self.args.auto_find_batch_size:
            if self._first_attempt is None:
                self._first_attempt = (copy_weights(self.model), get_random_states())
            else:
                weights, states = self._first_attempt
                with torch.no_grad():
                    for name, weight in named_weights(self.model).items():
                        weight.copy_(weights[name])
                set_random_states(states)
                self.optimizer, self.lr_scheduler = None, None
        return super()._inner_training_loop(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Transformers would take one more step when a run is resumed from its last checkpoint.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._load_whole_model(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_whole_model(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_whole_model(self, folder: str) -> bool:
        """Load as `from_pretrained` does. `Trainer` goes by the saved names, which for ViT are not the model's own."""
        if self.is_fsdp_enabled or not isinstance(self.model, PreTrainedModel):
            return False
        live = named_weights(self.model)
        dtypes = [weight.dtype for weight in live.values() if weight.is_floating_point()]
        widest = max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)
        model, report = type(self.model).from_pretrained(
            folder, config=self.model.config, dtype=widest, output_loading_info=True
        )
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report[what]:
                raise ValueError(
                    f"{folder} does not hold the weights of this model: {what.replace('_', ' ')} "
                    f"{', '.join(map(str, sorted(report[what])[:3]))}. Use the model that was trained."
                )
        loaded = named_weights(model)
        with torch.no_grad():
            for name, weight in live.items():
                weight.copy_(loaded[name])
        return True

    def _set_signature_columns_if_needed(self) -> None:
        # Rows that hold an image or a text keep it, with its label: the collator makes model inputs of them.
        super()._set_signature_columns_if_needed()
        kept = (*RAW_COLUMNS, *LABEL_COLUMNS)
        self._signature_columns += [name for name in kept if name not in self._signature_columns]

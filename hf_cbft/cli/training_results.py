# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Measure before and after `hf-cbft train`, and show it as a table and as `results.json`."""

import math
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from hf_cbft import __version__
from hf_cbft.data.completions import IGNORED
from hf_cbft.files import write_json
from hf_cbft.tables import format_number, format_table
from hf_cbft.tasks.task import Task
from hf_cbft.training.exact_resume import get_random_states, set_random_states
from hf_cbft.training.run_state import run_settings

RESULTS_FILE = "results.json"
# What the Trainer logs beside its figures: two equal runs differ in it.
TIMES = ("_runtime", "_per_second", "_preparation_time")
_SCHEMA_VERSION = 1
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "peft")
_METRICS = ("perplexity", "accuracy", "loss")


def scorer_of(task: Task) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """`preprocess_logits_for_metrics` of the Trainer, which keeps three numbers a row of a test set.

    Returns:
        `Callable`: from logits (the first of a tuple) and labels to (B, 3): the sum of a row's losses in nats, how
        many of its labels are predicted right, and how many it counts.
    """

    def kept(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        logits, targets = (logits[0] if isinstance(logits, tuple) else logits).float(), task.targets(labels)
        if targets.ndim == 1:
            logits, targets = logits[:, None], targets[:, None]
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")  # 0 where the label is -100
        right = logits.argmax(dim=-1) == targets
        return torch.stack([losses.sum(dim=1), right.sum(dim=1), (targets != IGNORED).sum(dim=1)], dim=1)

    return kept


def metrics_of(task: Task) -> Callable[[Any], dict[str, float]]:
    """`compute_metrics` of the Trainer, from what [`scorer_of`] keeps.

    Its loss takes the place of the Trainer's own, which is a mean of batches and depends on the number of processes.
    """

    def compute(scored: Any) -> dict[str, float]:
        loss, right, count = scored.predictions.astype(np.float64).sum(axis=0)
        found = {"accuracy": float(right / count), "loss": float(loss / count)}
        if not task.is_language_model:
            return found
        with np.errstate(over="ignore"):
            return {**found, "perplexity": float(np.exp(found["loss"]))}

    return compute


def measure_sets(trainer: Any, sets: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """`{"accuracy": {set: fraction}, "loss": {set: nats}}`, and `"perplexity"` of a language model.

    Training goes on as if nothing had been measured: no random number is used up. Losses of language models are means
    over all tokens, not over batches.
    """
    if not sets:
        return {}
    states = get_random_states()
    try:
        found = trainer.evaluate(dict(sets))
    finally:
        set_random_states(states)
    by_metric = {
        metric: {name: found[key] for name in sets if (key := f"eval_{name}_{metric}") in found} for metric in _METRICS
    }
    return {metric: values for metric, values in by_metric.items() if values}


class LogLines(TrainerCallback):
    """Prints a line for each log of a training, where there is no progress bar to show them."""

    training = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.training = True

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.training = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        # The reference is measured as training begins, perhaps before this callback hears of it.
        if not state.is_world_process_zero or not (self.training or "loss/ref" in logs):
            return
        shown = [
            f"{name.removeprefix('eval_')} {float(value):.3f}"
            for name, value in logs.items()
            if name == "loss" or (name.startswith(("loss/", "eval_")) and not name.endswith(TIMES))
        ]
        if shown:
            print(f"step {state.global_step:5}/{state.max_steps}  {'  '.join(shown)}", flush=True)


def summary(rows: Mapping[str, int], before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The table at the end: a line for each set, with every metric before and after."""
    metrics = [metric for metric in _METRICS if metric in after]
    titles = ["set", "rows", *(title for metric in metrics for title in (f"{metric} before", "after"))]
    lines = [titles]
    for name, count in rows.items():
        values = [when.get(metric, {}).get(name) for metric in metrics for when in (before, after)]
        lines.append([name, str(count), *map(format_number, values)])
    of_tokens = " Accuracy is the share of the completions' tokens." if "perplexity" in after else ""
    return "\n".join([*format_table(lines), f"Loss in nats.{of_tokens}"])


def write_results(folder: Path, arguments: Any, trainer: Any, before: Any, after: Any) -> None:
    """Write `results.json`: figures before and after by set, the log with its loss terms, settings and versions."""
    versions = {"hf_cbft": __version__, **{name: version(name) for name in _LIBRARIES}}
    log = [
        {key: value for key, value in entry.items() if not key.endswith(TIMES)} for entry in trainer.state.log_history
    ]
    results = {
        "schema_version": _SCHEMA_VERSION,
        "before": before,
        "after": after,
        "log": log,
        "settings": {**vars(arguments), **run_settings(trainer.args)},
        "versions": {**versions, "python": platform.python_version()},
    }
    write_json(folder / RESULTS_FILE, _finite(results))


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is none (the perplexity of a model that diverged) becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

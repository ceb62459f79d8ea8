# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What was measured along a path: kept, read again, and shown."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from hf_cbft.analysis.barriers import BASELINES, Barrier, compute_barrier, group_barriers
from hf_cbft.files import nan_as_null, read_measured, whole_file, whole_folder, write_json
from hf_cbft.tables import VERDICTS, format_band, format_table

_SCHEMA_VERSION = 2
_READABLE_VERSIONS = (1, 2)
# Arrays of a result that are kept beside its JSON, by set. Those that a set may lack come last.
_ARRAYS = ("example_losses", "example_correct", "weights", "predictions", "references", "groups")
# Metrics of which less is better; of all others, more.
_LESS_IS_BETTER = ("loss", "perplexity")


@dataclass(frozen=True)
class ConnectivityResult:
    """What was measured along a path. P points, N examples in a set; losses in nats, metrics as they come.

    Attributes:
        alphas (`np.ndarray`): (P,), 0 is `start` and 1 is `end`.
        losses (`dict[str, np.ndarray]`):
            By set, (P,), mean cross-entropy over the examples; over the counted tokens of all of them, where an
            example counts several.
        metrics (`dict[str, dict[str, np.ndarray]]`): by set and metric, (P,).
        barriers (`dict[str, Barrier]`): by set; `.height`, `.alpha`, `.low`, `.high`, `.connected`.
        error_barriers (`dict[str, Barrier]`): by set, of 1 - accuracy: the height is a drop in accuracy, a fraction.
        group_barriers (`dict[str, dict[str, Barrier]]`): by set and group, of the loss; empty without groups.
        example_losses (`dict[str, np.ndarray]`): by set, (P, N), float64, mean over the example's counted tokens.
        example_correct (`dict[str, np.ndarray]`): by set, (P, N), float64, fraction of them predicted right.
        weights (`dict[str, np.ndarray]`): by set, (N,), float64, how many tokens each example counts; 1 in
            classification.
        predictions (`dict[str, np.ndarray]`): by set, (P, M), the class with the largest logit, of the M = N examples
            or the M counted tokens. Not there for language models.
        references (`dict[str, np.ndarray]`): by set, (M,), the labels. Not there for language models.
        groups (`dict[str, np.ndarray]`): by set, (N,), the group of each example. Not there without groups.
        settings (`dict[str, Any]`): the end points and every argument of the evaluation.
    """

    alphas: np.ndarray
    losses: dict[str, np.ndarray]
    metrics: dict[str, dict[str, np.ndarray]]
    barriers: dict[str, Barrier]
    error_barriers: dict[str, Barrier]
    group_barriers: dict[str, dict[str, Barrier]]
    example_losses: dict[str, np.ndarray] = field(repr=False)
    example_correct: dict[str, np.ndarray] = field(repr=False)
    weights: dict[str, np.ndarray] = field(repr=False)
    predictions: dict[str, np.ndarray] = field(repr=False)
    references: dict[str, np.ndarray] = field(repr=False)
    groups: dict[str, np.ndarray] = field(repr=False)
    settings: dict[str, Any]

    def best_alpha(self, name: str, metric: str = "loss") -> float:
        """The grid point at which a set is served best: a model between the ends, as in a model soup.

        Args:
            name (`str`): the set.
            metric (`str`, *optional*, defaults to `"loss"`): `"loss"`, or one of the metrics.

        Raises:
            ValueError: there is no such set or metric, or it is undefined everywhere.
        """
        if name not in self.losses:
            raise ValueError(f"There is no set {name!r}: the result has {', '.join(self.losses)}.")
        values = {"loss": self.losses[name], **self.metrics[name]}
        if metric not in values:
            raise ValueError(f"There is no metric {metric!r} for {name}: the result has {', '.join(values)}.")
        if np.isnan(values[metric]).all():
            raise ValueError(f"The metric {metric!r} of {name} is undefined at every point.")
        pick = np.nanargmin if metric in _LESS_IS_BETTER else np.nanargmax
        return float(self.alphas[pick(values[metric])])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, without the per-example arrays."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "settings": self.settings,
            "alphas": self.alphas.tolist(),
            "num_examples": {name: int(weights.size) for name, weights in self.weights.items()},
            "losses": {name: values.tolist() for name, values in self.losses.items()},
            "metrics": nan_as_null(self.metrics),
            "barriers": {name: asdict(barrier) for name, barrier in self.barriers.items()},
            "error_barriers": {name: asdict(barrier) for name, barrier in self.error_barriers.items()},
            "group_barriers": {
                name: {group: asdict(barrier) for group, barrier in by_group.items()}
                for name, by_group in self.group_barriers.items()
            },
        }

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with one row for each set and point: `set`, `alpha`, `loss` and the metrics."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame({"set": name, "alpha": self.alphas, "loss": losses, **self.metrics[name]})
                for name, losses in self.losses.items()
            ],
            ignore_index=True,
        )

    def save(self, folder: str | Path) -> None:
        """Write `result.json` and `examples.safetensors` into a new folder.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        with whole_folder(folder) as written:
            self.write(written)

    def write(self, folder: Path) -> None:
        """Write both files into a folder that is there, the one that says it is whole last."""
        with whole_file(folder / "examples.safetensors") as written:
            save_file(self._arrays(), written)
        write_json(folder / "result.json", self.to_dict())

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"{kind}/{name}": values for kind in _ARRAYS for name, values in getattr(self, kind).items()}
        return {name: _as_bytes(values) if values.dtype.kind == "U" else values for name, values in arrays.items()}

    @classmethod
    def load(cls, folder: str | Path) -> "ConnectivityResult":
        """Read what `save` wrote, in this version or an earlier one.

        Raises:
            FileNotFoundError: there is no result in `folder`.
            ValueError: it is damaged, or was written by a version that is not known here.
        """
        folder = Path(folder)
        data = read_measured(folder / "result.json", "result", _READABLE_VERSIONS)
        arrays = load_file(folder / "examples.safetensors")
        kinds = {
            kind: {n: arrays[f"{kind}/{n}"] for n in data["losses"] if f"{kind}/{n}" in arrays} for kind in _ARRAYS
        }
        kinds["groups"] = {name: _as_text(values) for name, values in kinds["groups"].items()}
        if data["schema_version"] == 1:  # classification alone, and no barriers but those of the loss
            for name, labels in kinds["references"].items():
                kinds["example_correct"][name] = (kinds["predictions"][name] == labels).astype(np.float64)
                kinds["weights"][name] = np.ones(labels.size)
        return cls(
            alphas=np.array(data["alphas"]),
            losses={name: np.array(values) for name, values in data["losses"].items()},
            metrics={
                name: {metric: np.array(values, dtype=np.float64) for metric, values in by_metric.items()}
                for name, by_metric in data["metrics"].items()
            },
            barriers={name: Barrier(**barrier) for name, barrier in data["barriers"].items()},
            error_barriers={name: Barrier(**barrier) for name, barrier in data.get("error_barriers", {}).items()},
            group_barriers={
                name: {group: Barrier(**barrier) for group, barrier in by_group.items()}
                for name, by_group in data.get("group_barriers", {}).items()
            },
            settings=data["settings"],
            **kinds,
        )

    def plot(self, file: str | Path) -> None:
        """Draw the loss and the first metric of every set along the path; the suffix of `file` names the format."""
        from hf_cbft.reporting.plotting import plot_result

        plot_result(self.to_dict(), file)

    def report(
        self,
        file: str | Path,
        datasets: Mapping[str, Any] | None = None,
        mechanisms: Any = None,
        command: str | None = None,
    ) -> None:
        """Write one self-contained HTML page to send to a colleague: it loads nothing, and opens without a network.

        It has the verdict, the path as charts and tables, the sets, what each end relies on, and how to measure it
        again. All text from the data is escaped.

        Args:
            file (`str` or `Path`): ends in `.html`; its folder is there. An earlier page is replaced.
            datasets (`Mapping[str, data set]`, *optional*):
                The sets as `evaluate` had them, or some of them. Of those with an `image`, a `text` or a `prompt` the
                page shows at most 24 rows whose prediction changes along the path.
            mechanisms ([`~hf_cbft.analysis.mechanisms.MechanismReport`], *optional*): of this result.
            command (`str`, *optional*): what measured it; `None` shows Python code with the settings alone.

        Raises:
            ValueError: a file of another kind, or `datasets` that are not those that were measured.
            OSError: `file` is a folder, or its folder does not exist.
        """
        from hf_cbft.reporting.page import write_report

        write_report(self, file, datasets, mechanisms, command)

    def __str__(self) -> str:
        lines = [
            f"{self.settings['path']} path, {len(self.alphas)} points, from {self.settings['start']} (alpha 0) to "
            f"{self.settings['end']} (alpha 1)"
        ]
        if self.settings.get("align"):
            lines.append(f"aligned by {self.settings['align']}")
        lines += format_table(self._rows())
        lines.append("barrier in nats, by convention; drop in accuracy, in points, with its band:")
        rows = [["set", *BASELINES, "accuracy drop", self._band_title()]]
        for name, losses in self.losses.items():
            heights = [compute_barrier(self.alphas, losses, baseline).height for baseline in BASELINES]
            rows.append([name, *(f"{height:.3f}" for height in heights), *_drop_cells(self.error_barriers.get(name))])
        lines += format_table(rows)
        if self.group_barriers:
            lines.append("barrier of each group, in nats:")
            rows = [["set", "group", "n", "barrier", self._band_title(), "connected"]]
            for name, by_group in self.group_barriers.items():
                for group, barrier in by_group.items():
                    cells = [f"{barrier.height:.3f}", format_band(barrier.low, barrier.high, digits=3)]
                    number = str(int((self.groups[name] == group).sum()))
                    rows.append([name, group, number, *cells, VERDICTS[barrier.connected]])
            lines += format_table(rows)
        if len(self.losses) > 1 or self.group_barriers:
            lines.append(f"Each {self._band_title()} holds for its own row, not for all rows together.")
        return "\n".join(lines)

    def _rows(self) -> list[list[str]]:
        metric_names = list(next(iter(self.metrics.values()), {}))
        ends = ["loss at 0", "at 1", *(f"{name} {end}" for name in metric_names for end in ("at 0", "at 1"))]
        rows = [["set", "n", *ends, "barrier", "at alpha", self._band_title(), "connected"]]
        for name, barrier in self.barriers.items():
            values = [self.losses[name], *(self.metrics[name][metric] for metric in metric_names)]
            cells = [f"{value[end]:.3f}" for value in values for end in (0, -1)]
            band = format_band(barrier.low, barrier.high, digits=3)
            rows.append(
                [name, str(self.weights[name].size), *cells, f"{barrier.height:.3f}", f"{barrier.alpha:.2f}", band]
                + [VERDICTS[barrier.connected]]
            )
        return rows

    def _band_title(self) -> str:
        return f"{100 * self.settings['confidence']:g} % band"


def _as_bytes(texts: np.ndarray) -> np.ndarray:
    """Strings as a safetensors file can hold them: (N, length) bytes in UTF-8, filled up with zeros."""
    encoded = [text.encode() for text in texts.tolist()]
    width = max(map(len, encoded), default=0)
    return np.frombuffer(b"".join(text.ljust(width, b"\0") for text in encoded), dtype=np.uint8).reshape(-1, width)


def _as_text(array: np.ndarray) -> np.ndarray:
    return np.array([row.tobytes().rstrip(b"\0").decode() for row in array], dtype=np.str_)


def _drop_cells(barrier: Barrier | None) -> list[str]:
    if barrier is None:
        return ["-", "-"]
    low, high = (None if bound is None else 100 * bound for bound in (barrier.low, barrier.high))
    return [f"{100 * barrier.height:.1f}", format_band(low, high, digits=1)]


def with_barriers(settings: Mapping[str, Any], **measured: Any) -> ConnectivityResult:
    """A result of measured arrays; its barriers follow from them and the `settings` of the statistics."""
    options = {key: settings[key] for key in ("baseline", "confidence", "num_resamples", "seed")}
    alphas, weights = measured["alphas"], measured["weights"]
    loss_options = {**options, "tolerance": settings["tolerance"], "guess_loss": settings["guess_loss"]}
    losses, correct = measured["example_losses"], measured["example_correct"]
    return ConnectivityResult(
        losses={name: np.average(values, axis=1, weights=weights[name]) for name, values in losses.items()},
        barriers={
            name: compute_barrier(alphas, values, weights=weights[name], **loss_options)
            for name, values in losses.items()
        },
        error_barriers={
            name: compute_barrier(
                alphas,
                1.0 - values,
                weights=weights[name],
                tolerance=settings["error_tolerance"],
                errors=True,
                **options,
            )
            for name, values in correct.items()
        },
        group_barriers={
            name: group_barriers(alphas, losses[name], groups, weights=weights[name], **loss_options)
            for name, groups in measured["groups"].items()
        },
        settings=dict(settings),
        **measured,
    )

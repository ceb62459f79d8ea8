# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a result's plain data. One style for all of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from hf_cbft.files import whole_file

# Colours that stay apart for colour-blind readers (Okabe and Ito), and on paper by their markers.
SET_STYLES: dict[str, dict[str, Any]] = {
    "no_cue": {"color": "#0072B2", "marker": "o"},
    "cue": {"color": "#D55E00", "marker": "s"},
    "rand_cue": {"color": "#009E73", "marker": "^"},
    "rand_input": {"color": "#CC79A7", "marker": "v"},
}
# The terms of a training run, a panel each group: the label of its axis, and the style of each line.
_TERMS: dict[str, dict[str, dict[str, Any]]] = {
    "loss (nats)": {
        "loss/clean": {"color": "#0072B2", "marker": "o"},
        "loss/path": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
        "loss/barrier": {"color": "#000000", "marker": "^", "linestyle": ":"},
    },
    "invariance": {"loss/invariance": {"color": "#009E73", "marker": "v"}},
    "alpha": {"path/alpha": {"color": "#808080", "marker": "x", "linestyle": "none"}},
}
_BARRIER_KEY = re.compile(r"eval_barrier_(.+?)(?:_(?:low|high|alpha|connected))?")
_OTHER_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_OTHER_MARKERS = ("o", "s", "^", "v", "D", "P", "X")
_STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "savefig.dpi": 150,
}


@contextmanager
def figure(
    rows: int, columns: int, file: str | Path, size: tuple[float, float] | None = None, **options: Any
) -> Iterator[Any]:
    """Axes (rows, columns) of a figure that is written to `file` when the block ends. No window, no global state.

    Raises:
        ValueError: a file of a kind that nobody draws.
    """
    if Path(file).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{file} cannot be drawn: give the picture's name the ending .png, .svg or .pdf.")
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=size or (3.4 * columns + 0.6, 2.9 * rows), layout="constrained")
        yield drawn.subplots(rows, columns, squeeze=False, **options)
        with whole_file(file) as written:
            drawn.savefig(written)


def set_style(name: str, index: int) -> dict[str, Any]:
    """Of the four sets always the same, of others by their place among what is drawn."""
    place = index % len(_OTHER_COLORS)
    return SET_STYLES.get(name, {"color": _OTHER_COLORS[place], "marker": _OTHER_MARKERS[place]})


def draw_lines(axes: Axes, alphas: Any, values_by_set: Mapping[str, Any]) -> None:
    for index, (name, values) in enumerate(values_by_set.items()):
        axes.plot(alphas, values, label=_plain(name), **set_style(name, index))
    axes.set_xlabel("alpha")
    axes.set_xlim(-0.02, 1.02)  # room for the markers of both ends


def plot_result(result: Mapping[str, Any], file: str | Path) -> None:
    """Loss, and the first metric if there is one, of every set along the path.

    Args:
        result (`Mapping`): what `ConnectivityResult.to_dict` gives.
        file (`str` or `Path`): `.png`, `.svg` or `.pdf`.
    """
    metrics: Mapping[str, Any] = next(iter(result["metrics"].values()), {})
    metric = next(iter(metrics), None)
    columns = 1 if metric is None else 2
    with figure(1, columns, file, size=(3.4 * columns + 1.6, 2.9)) as axes:
        losses = axes[0][0]
        draw_lines(losses, result["alphas"], result["losses"])
        losses.set_ylabel("loss (nats)")
        losses.set_ylim(bottom=0.0)
        if metric is not None:
            draw_lines(axes[0][1], result["alphas"], {name: by[metric] for name, by in result["metrics"].items()})
            axes[0][1].set_ylabel(f"{metric} (fraction)" if "accuracy" in metric else metric)
            if "accuracy" in metric:
                axes[0][1].set_ylim(0.0, 1.03)
        ends = [_short(result["settings"][end], 40) for end in ("start", "end")]
        for panel in axes[0]:
            panel.set_title(f"alpha 0: {ends[0]}\nalpha 1: {ends[1]}", size=9)
        _legend_beside(axes[0][-1])


def plot_training(
    log_history: Sequence[Mapping[str, Any]], file: str | Path, barrier_stop: float | None = None
) -> None:
    """The terms of L_CBFT over the steps, and the barrier to the reference where it was logged (`eval_barrier_*`).

    Args:
        log_history (`Sequence[Mapping]`): `trainer.state.log_history`, or that of a `trainer_state.json`.
        file (`str` or `Path`): `.png`, `.svg` or `.pdf`.
        barrier_stop (`float`, *optional*):
            The step after which the barrier loss is left out. `None`: the last one that logged it, if others follow.

    Raises:
        ValueError: no term of L_CBFT was logged.

    Example:

    ```python
    >>> from hf_cbft.reporting.plotting import plot_training
    >>> log = [{"step": 10, "loss/clean": 2.1, "loss/path": 0.4}, {"step": 20, "loss/clean": 1.2, "loss/path": 0.9}]
    >>> plot_training(log, getfixture("tmp_path") / "training.png")

    ```
    """
    panels = {
        label: {name: series for name in terms if (series := logged(log_history, name))[0]}
        for label, terms in {**_TERMS, **_own_terms(log_history)}.items()
    }
    panels["barrier (nats)"] = {name: logged(log_history, name) for name in _logged_barriers(log_history)}
    panels = {label: lines for label, lines in panels.items() if lines}
    if not has_terms(log_history):
        raise ValueError(
            "log_history holds no term of L_CBFT (loss/clean and so on): give that of a CBFTTrainer that has trained "
            "for at least logging_steps steps."
        )
    stop = _barrier_stop(log_history) if barrier_stop is None else barrier_stop
    heights = [2.0 if "nats" in label else 1.0 for label in panels]
    size = (6.4, 0.6 + 1.15 * sum(heights))
    with figure(len(panels), 1, file, size, sharex=True, gridspec_kw={"height_ratios": heights}) as axes:
        for panel, (label, lines) in zip(axes[:, 0], panels.items(), strict=True):
            _training_panel(panel, label, lines, log_history)
            if stop is not None:
                panel.axvline(stop, color="black", linestyle=(0, (1, 1)), linewidth=1)
        if stop is not None:
            axes[0][0].set_title("dotted: the barrier loss ends", size=9, loc="right")
        axes[-1][0].set_xlabel("step")
        axes[-1][0].xaxis.set_major_locator(MaxNLocator(integer=True))


def has_terms(log_history: Sequence[Mapping[str, Any]]) -> bool:
    """Return `True` if a log holds terms of L_CBFT, so that there is something to draw."""
    return any(name in entry for terms in _TERMS.values() for name in terms for entry in log_history)


def logged(log_history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps at which a value was logged, and the values; of a step that was logged twice the last.

    Example:

    ```python
    >>> from hf_cbft.reporting.plotting import logged
    >>> logged([{"step": 1, "loss/clean": 2.0}, {"step": 1, "eval_loss": 1.0}, {"step": 2, "loss/clean": 1.5}],
    ...        "loss/clean")
    ([1, 2], [2.0, 1.5])

    ```
    """
    values = {entry["step"]: float(entry[name]) for entry in log_history if entry.get(name) is not None}
    return list(values), list(values.values())


def _own_terms(log_history: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """A panel for each further term of the loss, whose unit is not known, by its name."""
    known = {"loss/ref", *chain.from_iterable(_TERMS.values())}
    names = dict.fromkeys(name for entry in log_history for name in entry if name.startswith("loss/"))
    return {name.removeprefix("loss/"): [name] for name in names if name not in known}


def _logged_barriers(log_history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of logged barriers, without those of their bounds."""
    names = dict.fromkeys(name for entry in log_history for name in entry if _BARRIER_KEY.fullmatch(name))
    return [name for name in names if f"eval_barrier_{_set_of(name)}" == name]


def _set_of(name: str) -> str:
    found = _BARRIER_KEY.fullmatch(name)
    return found[1] if found else name


def _barrier_stop(log_history: Sequence[Mapping[str, Any]]) -> int | None:
    steps, (barrier_steps, _) = logged(log_history, "loss/clean")[0], logged(log_history, "loss/barrier")
    return barrier_steps[-1] if barrier_steps and steps and steps[-1] > barrier_steps[-1] else None


def _training_panel(
    panel: Axes,
    label: str,
    lines: Mapping[str, tuple[list[int], list[float]]],
    log_history: Sequence[Mapping[str, Any]],
) -> None:
    reference = logged(log_history, "loss/ref")[1]
    if label == "loss (nats)" and reference:
        panel.axhline(reference[-1], color="#808080", linestyle="-.", linewidth=1, label="loss/ref")
    for index, (name, (steps, values)) in enumerate(lines.items()):
        style = _TERMS.get(label, {}).get(name) or set_style(_set_of(name), index)
        shown = _plain(_set_of(name) if _BARRIER_KEY.fullmatch(name) else name)
        # Markers tell lines apart in print, and a few of them are enough.
        panel.plot(steps, values, label=shown, markevery=1 + len(steps) // 40, **style)
        bounds = [logged(log_history, f"{name}_{end}") for end in ("low", "high")]
        if steps == bounds[0][0] == bounds[1][0]:
            sides = [np.subtract(values, bounds[0][1]), np.subtract(bounds[1][1], values)]
            # Bands of several sets overlap: the caps of those below stick out.
            cap = 2 * (len(lines) - index)
            panel.errorbar(steps, values, sides, fmt="none", ecolor=style["color"], elinewidth=1, capsize=cap)
    panel.set_ylabel(label)
    if label == "alpha":
        panel.set_ylim(0.0, 1.0)
    _legend_beside(panel, "with its band" if panel.containers else None)


def plot_matrix(matrix: Mapping[str, Any], file: str | Path) -> None:
    """The barrier of every pair of checkpoints as a map of N x N numbers, clusters side by side and boxed.

    Args:
        matrix (`Mapping`): what `MatrixResult.to_dict` gives.
        file (`str` or `Path`): `.png`, `.svg` or `.pdf`.
    """
    names, tolerance = matrix["order"], matrix["settings"]["tolerance"]
    number = len(names)
    rows = [matrix["names"].index(name) for name in names]
    heights = [[matrix["heights"][i][j] for j in rows] for i in rows]
    # At least twice what counts as connected: noise among checkpoints that are all connected stays pale.
    top = max(2.0 * tolerance, *(height for row in heights for height in row)) or 1.0
    with figure(1, 1, file, size=(2.6 + 0.75 * number, 1.9 + 0.7 * number)) as axes:
        panel = axes[0][0]
        panel.spines[:].set_visible(False)
        image = panel.imshow(heights, cmap="Blues", vmin=0.0, vmax=top)
        for i in range(number):
            for j in range(number):
                _matrix_cell(panel, i, j, heights[i][j] / top, matrix, rows)
        for members in matrix["clusters"]:
            first = min(names.index(name) for name in members) - 0.5
            box = Rectangle((first, first), len(members), len(members), fill=False, clip_on=False)
            box.set(edgecolor="#D55E00", linewidth=2.5, zorder=3)
            panel.add_patch(box)
        panel.set_xticks(range(number), [_short(name) for name in names], rotation=40, ha="right")
        panel.set_yticks(range(number), [_short(name) for name in names])
        panel.grid(False)
        for line in range(1, number):
            panel.axhline(line - 0.5, color="#D0D0D0", linewidth=0.6)
            panel.axvline(line - 0.5, color="#D0D0D0", linewidth=0.6)
        panel.tick_params(length=0)
        panel.set_title(f"barrier on {matrix['settings']['on']} (nats)")
        panel.set_xlabel("boxed: every pair is connected; hatched: undecided", size=8)
        panel.figure.colorbar(image, ax=panel, shrink=0.8).outline.set_visible(False)


def _matrix_cell(panel: Axes, i: int, j: int, shade: float, matrix: Mapping[str, Any], rows: list[int]) -> None:
    """The number of a cell, in a colour that stands out from it, and hatching where nothing is decided."""
    color = "white" if shade > 0.55 else "black"
    if matrix["verdicts"][rows[i]][rows[j]] is None:
        panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="//", edgecolor="#808080", linewidth=0))
    # Adding 0 makes a plain zero of a negative one.
    text = "-" if i == j else f"{round(matrix['heights'][rows[i]][rows[j]], 2) + 0.0:.2f}"
    panel.text(j, i, text, ha="center", va="center", color=color, size=9)


def _legend_beside(panel: Axes, title: str | None = None) -> None:
    """Where no line is, of however many sets."""
    panel.legend(
        title=title, title_fontsize=8, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False
    )


def _short(name: str, length: int = 24) -> str:
    return _plain(name if len(name) <= length else "..." + name[-length + 3 :])


def _plain(name: str) -> str:
    """A user's name as matplotlib shows it: one line, and no formula between dollar signs."""
    return " ".join(name.split()).replace("$", r"\$")

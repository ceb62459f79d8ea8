# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a result's plain data. One style for all of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hf_cbft.files import whole_file

# Colours that stay apart for colour-blind readers (Okabe and Ito), and on paper by their markers.
SET_STYLES: dict[str, dict[str, Any]] = {
    "no_cue": {"color": "#0072B2", "marker": "o"},
    "cue": {"color": "#D55E00", "marker": "s"},
    "rand_cue": {"color": "#009E73", "marker": "^"},
    "rand_input": {"color": "#CC79A7", "marker": "v"},
}
_OTHER_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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
    """Axes (rows, columns) of a figure that is written to `file` when the block ends. No window, no global state."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=size or (3.4 * columns + 0.6, 2.9 * rows), layout="constrained")
        yield drawn.subplots(rows, columns, squeeze=False, **options)
        with whole_file(file) as written:
            drawn.savefig(written)


def set_style(name: str, index: int) -> dict[str, Any]:
    return SET_STYLES.get(name, {"color": _OTHER_COLORS[index % len(_OTHER_COLORS)], "marker": "o"})


def draw_lines(axes: Axes, alphas: Any, values_by_set: Mapping[str, Any]) -> None:
    for index, (name, values) in enumerate(values_by_set.items()):
        axes.plot(alphas, values, label=name, **set_style(name, index))
    axes.set_xlabel("alpha")
    axes.set_xlim(0.0, 1.0)


def plot_result(result: Mapping[str, Any], file: str | Path) -> None:
    """Loss, and the first metric if there is one, of every set along the path.

    Args:
        result (`Mapping`): what `ConnectivityResult.to_dict` gives.
        file (`str` or `Path`): `.png`, `.svg` or `.pdf`.
    """
    metrics: Mapping[str, Any] = next(iter(result["metrics"].values()), {})
    metric = next(iter(metrics), None)
    with figure(1, 1 if metric is None else 2, file) as axes:
        losses = axes[0][0]
        draw_lines(losses, result["alphas"], result["losses"])
        losses.set_ylabel("loss (nats)")
        losses.set_ylim(bottom=0.0)
        if metric is not None:
            draw_lines(axes[0][1], result["alphas"], {name: by[metric] for name, by in result["metrics"].items()})
            axes[0][1].set_ylabel(metric)
        ends = [_short(result["settings"][end], 40) for end in ("start", "end")]
        for panel in axes[0]:
            panel.set_title(f"alpha 0: {ends[0]}\nalpha 1: {ends[1]}", size=9)
        losses.legend(fontsize=8)


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


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else "..." + name[-length + 3 :]

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
def figure(rows: int, columns: int, file: str | Path, **options: Any) -> Iterator[Any]:
    """Axes (rows, columns) of a figure that is written to `file` when the block ends. No window, no global state."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(3.4 * columns + 0.6, 2.9 * rows), layout="constrained")
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
        for panel in axes[0]:
            panel.set_title(
                f"0: {_short(result['settings']['start'])}, 1: {_short(result['settings']['end'])}", size=9
            )
        losses.legend(fontsize=8)


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else "..." + name[-length + 3 :]

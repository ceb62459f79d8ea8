# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a run, each as SVG and PNG, that read in black and white: by hatch, marker, line and number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hf_cbft.reporting.plotting import SET_STYLES, figure, set_style
from paper.findings.records import (
    FULL,
    JOINED,
    SETS,
    Quantity,
    Record,
    Run,
    accuracy,
    by_seed,
    group_accuracy,
    show_value,
    show_variant,
    worst_group,
)
from paper.findings.statistics import interval_band, mean_interval
from paper.findings.tables import settings_of

# Lines are told apart by these as well as by colour.
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*", "<", ">")
# Methods of one kind have colours of one kind.
_COLORS = {
    "pretrained": "#000000",
    "naive-small": "#9ECAE1",
    "naive-medium": "#4292C6",
    "naive-large": "#08519C",
    "llrt": "#74C476",
    "lp-ft": "#238B45",
    "dfr": "#00441B",
    "balanced": "#CC79A7",
    "cbft": "#D55E00",
    "cbft-paper": "#E69F00",
}
# Bars and lines are told apart by these as well as by colour.
HATCHES = ("", "///", "\\\\\\", "xxx", "---", "+++", "|||")
# A fraction and the bounds of its interval.
Estimated = tuple[float, float | None, float | None]
# The loss that a path's panel shows at most, nats: above it a model knows nothing, and what matters is near 0.
_TOP_LOSS = 6.0


@dataclass(frozen=True)
class Picture:
    """A picture on disk, and what it shows in words."""

    file: Path
    alt: str


def run_figures(run: Run) -> list[Picture]:
    """Draw all pictures of a run into its folder `figures/`.

    Returns:
        `list[Picture]`: the first is the one that a page shows.
    """
    folder = run.folder / "figures"
    if not run.records:
        return []
    pictures: list[Picture] = []
    for share in run.shares:
        file = folder / f"{run.folder.name}{'' if share is None else f'-{share:g}'}.png"
        where = run.title + (f", cue share {share:g}" if share is not None else "")
        pictures += {
            "table1": _bars_by_method,
            "text": _bars_by_method,
            "groups": _bars_by_group,
            "ablation": _ablation_map,
            "sensitivity": _sensitivity_maps,
            "paths": _path_curves,
            "symmetry": _path_curves,
        }[run.experiment](run, share, file, where)
    if run.experiment in ("table1", "text") and len(run.shares) > 1:
        pictures.insert(0, _over_shares(run, folder / f"{run.folder.name}-over-shares.png"))
    return pictures


def _bars_by_method(run: Run, share: float | None, file: Path, where: str) -> list[Picture]:
    groups = {method: run.select(method=method, share=share) for method in run.methods}
    with figure(1, 1, file, (1.6 + 1.05 * len(groups), 3.6)) as axes:
        draw_records(
            axes[0][0], groups, {short: (SET_STYLES[name]["color"], accuracy(name)) for name, short in SETS.items()}
        )
        if run.num_classes:
            draw_chance(axes[0][0], 1 / run.num_classes)
        axes[0][0].legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axes[0][0].set_xlabel(where)
    return [Picture(file, f"Accuracy of each method on the four sets, with 95 % intervals over seeds: {where}")]


def _bars_by_group(run: Run, share: float | None, file: Path, where: str) -> list[Picture]:
    groups = {method: run.select(method=method, share=share) for method in run.methods}
    bars: dict[str, tuple[str, Quantity]] = {}
    for record in run.records:
        bars |= {f"worst group, {part}": ("black", worst_group(part)) for part in record.get("worst_group") or ()}
    for record in run.records:
        names = enumerate(record.get("groups") or ())
        bars |= {name: (set_style(name, index)["color"], group_accuracy(name)) for index, name in names}
    with figure(1, 1, file, (1.6 + (0.35 + 0.18 * len(bars)) * len(groups), 3.6)) as axes:
        draw_records(axes[0][0], groups, bars)
        axes[0][0].legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
        axes[0][0].set_xlabel(where)
    return [Picture(file, f"Accuracy of each method on the worst group and on all groups: {where}")]


def draw_bars(panel: Axes, groups: Sequence[str], bars: Mapping[str, tuple[str, Sequence[Estimated | None]]]) -> None:
    """Grouped bars in percent, told apart by hatch as well as by colour.

    Args:
        groups (`Sequence[str]`): the names under the groups.
        bars (`Mapping`):
            By the name in the legend, the colour and for each group (fraction, low, high); `None` is shown as n/a, as
            a bar of height 0 would be read as an accuracy of 0.
    """
    width = 0.84 / max(len(bars), 1)
    for index, (label, (color, values)) in enumerate(bars.items()):
        # Hatches take the edge's colour.
        style: dict[str, Any] = {
            "facecolor": color,
            "hatch": HATCHES[index % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0.5,
        }
        for place, value in enumerate(values):
            x = place + (index - (len(bars) - 1) / 2) * width
            shown = label if place == 0 else None
            if value is None:
                panel.bar(x, 0.0, width, label=shown, **style)
                panel.text(x, 1.0, "n/a", rotation=90, ha="center", va="bottom", size=7)
                continue
            middle, low, high = value
            panel.bar(x, 100 * middle, width, label=shown, **style)
            if low is not None and high is not None:
                sides = [[100 * (middle - low)], [100 * (high - middle)]]
                panel.errorbar(x, 100 * middle, sides, color="black", linewidth=1, capsize=2)
    panel.set_xticks(range(len(groups)), list(groups), size=9)
    panel.set_axisbelow(True)
    panel.grid(False, axis="x")
    panel.set_ylabel("accuracy (%)")
    panel.set_ylim(0, 105)


def draw_chance(panel: Axes, chance: float) -> None:
    """A dotted line at the accuracy of a guess, a fraction."""
    panel.axhline(
        100 * chance, color="black", linestyle=":", linewidth=1.2, label=f"chance ({round(100 * chance, 1):g} %)"
    )


def draw_records(
    panel: Axes, groups: Mapping[str, Sequence[Record]], bars: Mapping[str, tuple[str, Quantity]]
) -> None:
    """Grouped bars in percent, one group a method.

    Args:
        groups (`Mapping`): records by the name under the group.
        bars (`Mapping`): by the name in the legend, the colour and what is read from the records.
    """
    measured = {
        label: (color, [_estimate(list(by_seed(records, quantity).values())) for records in groups.values()])
        for label, (color, quantity) in bars.items()
    }
    draw_bars(panel, list(groups), measured)


def _estimate(values: Sequence[float]) -> tuple[float, float | None, float | None] | None:
    if not values:
        return None
    estimate = mean_interval(values)
    return estimate.mean, estimate.low, estimate.high


def _over_shares(run: Run, file: Path) -> Picture:
    """One panel a set: accuracy over the share of the cue, a line a method."""
    with figure(2, 2, file, (9.0, 6.4), sharex=True) as axes:
        for panel, (part, short) in zip(axes.flat, SETS.items(), strict=True):
            for index, method in enumerate(run.methods):
                _share_line(panel, run, method, part, index)
            panel.set_title(f"{short} ({part})", size=10)
            panel.set_ylabel("accuracy (%)")
            panel.set_ylim(0, 100)
        for panel in axes[1]:
            panel.set_xlabel("share of the pretraining rows with the cue")
            panel.set_xticks([share for share in run.shares if share is not None])
        handles, labels = axes[0][0].get_legend_handles_labels()
        axes[0][0].figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    alt = "Accuracy on the four sets over the share of the cue, a line a method, with the interval of cbft"
    return Picture(file, f"{alt}: {run.title}")


def _share_line(panel: Axes, run: Run, method: str, part: str, index: int) -> None:
    points = [
        (share, mean_interval(list(values.values())))
        for share in run.shares
        if share is not None and (values := by_seed(run.select(method=method, share=share), accuracy(part)))
    ]
    shares = [share for share, _ in points]
    style: dict[str, Any] = {
        "color": _COLORS.get(method, "grey"),
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _LINES[index % len(_LINES)],
    }
    if method == "cbft":
        style["linestyle"] = "-"
    panel.plot(shares, [100 * estimate.mean for _, estimate in points], label=method, **style)
    # The intervals of all methods would cover each other; they stand in the tables.
    if method == "cbft" and points and all(estimate.high is not None for _, estimate in points):
        low, high = ([100 * (getattr(estimate, end) or 0.0) for _, estimate in points] for end in ("low", "high"))
        panel.fill_between(shares, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _ablation_map(run: Run, share: float | None, file: Path, where: str) -> list[Picture]:
    rows = {show_variant(variant): run.select(share=share, variant=variant) for variant in run.variants}
    if not rows:
        return []
    with figure(1, 1, file, (6.4, 1.3 + 0.34 * len(rows))) as axes:
        _accuracy_map(axes[0][0], rows)
        axes[0][0].set_xlabel(where)
    return [Picture(file, f"Accuracy in % of each variant of CBFT on the four sets: {where}")]


def _sensitivity_maps(run: Run, share: float | None, file: Path, where: str) -> list[Picture]:
    """One panel a setting, and a map of RC and one of RI for every two settings that were varied at once."""
    full = [variant for variant in run.variants if variant[0] in FULL]
    single = [name for name in settings_of(run) if JOINED not in name]
    pictures = []
    if single:
        columns = min(len(single), 2)
        rows = -(-len(single) // columns)
        maps = {name: _values_of(run, share, [*full, *_variants(run, name)]) for name in single}
        tallest = max(map(len, maps.values()))
        with figure(rows, columns, file, (0.6 + 4.2 * columns, (1.1 + 0.34 * tallest) * rows)) as axes:
            for panel in axes.flat[len(single) :]:
                panel.set_axis_off()
            for panel, (name, records) in zip(axes.flat, maps.items(), strict=False):
                _accuracy_map(panel, records)
                panel.set_title(name, size=10)
            axes[0][0].figure.supxlabel(where, size=9)
        pictures.append(Picture(file, f"Accuracy in % on the four sets over the values of each setting: {where}"))
    for name in settings_of(run):
        if JOINED in name:
            pictures.append(_pair_map(run, share, name, file, where))
    return pictures


def _variants(run: Run, name: str) -> list[tuple[str, Any]]:
    return [variant for variant in run.variants if variant[0] == name]


def _values_of(run: Run, share: float | None, variants: Sequence[tuple[str, Any]]) -> dict[str, list[Record]]:
    return {
        show_value(variant[1]) if variant[1] is not None else variant[0]: run.select(share=share, variant=variant)
        for variant in variants
    }


def _pair_map(run: Run, share: float | None, name: str, file: Path, where: str) -> Picture:
    variants = _variants(run, name)
    first, second = (list(dict.fromkeys(variant[1][i] for variant in variants)) for i in (0, 1))
    first, second = sorted(first, key=_order), sorted(second, key=_order)
    titles = name.split(JOINED)
    file = file.with_name(f"{file.stem}-{titles[0]}-{titles[1]}.png")
    with figure(1, 2, file, (1.8 + 1.5 * len(second), 1.5 + 0.4 * len(first))) as axes:
        for panel, part in zip(axes[0], ("rand_cue", "rand_input"), strict=True):
            cells = [
                [_mean_percent(run.select(share=share, variant=(name, (a, b))), accuracy(part)) for b in second]
                for a in first
            ]
            draw_map(panel, cells, [show_value(a) for a in first], [show_value(b) for b in second])
            panel.set_title(f"{SETS[part]} (accuracy in %)", size=10)
            panel.set_xlabel(titles[1])
        axes[0][0].set_ylabel(titles[0])
        axes[0][0].figure.supxlabel(where, size=9)
    return Picture(file, f"RC and RI in % over {titles[0]} and {titles[1]}: {where}")


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _accuracy_map(panel: Axes, rows: Mapping[str, Sequence[Record]]) -> None:
    cells = [[_mean_percent(records, accuracy(part)) for part in SETS] for records in rows.values()]
    draw_map(panel, cells, list(rows), [f"{short} (%)" for short in SETS.values()])


def _mean_percent(records: Sequence[Record], quantity: Quantity) -> float | None:
    values = list(by_seed(records, quantity).values())
    return 100 * float(np.mean(values)) if values else None


def draw_map(
    panel: Axes, cells: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """A heat map of percentages with each number in its cell."""
    shades = [[np.nan if cell is None else cell for cell in row] for row in cells]
    panel.imshow(shades, cmap="Blues", vmin=0.0, vmax=100.0, aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            color = "white" if (cell or 0.0) > 55.0 else "black"
            panel.text(j, i, "n/a" if cell is None else f"{cell:.1f}", ha="center", va="center", color=color, size=9)
    panel.set_xticks(range(len(columns)), columns)
    panel.set_yticks(range(len(rows)), rows)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.grid(False)


def _path_curves(run: Run, share: float | None, file: Path, where: str) -> list[Picture]:
    """Rows of pairs, a panel a set; loss in one picture, accuracy in the other."""
    records = [record for record in run.select(share=share) if record.get("path")]
    pairs = list(dict.fromkeys(record["path"]["pair"] for record in records))
    if not pairs:
        return []
    pictures = []
    for field, label, scale in (("loss", "loss (nats)", 1.0), ("accuracy", "accuracy (%)", 100.0)):
        drawn = file.with_name(f"{file.stem}-{field}.png")
        size = (10.4, 0.7 + 1.9 * len(pairs))
        with figure(len(pairs), len(SETS), drawn, size, sharex=True, sharey=True) as axes:
            for row, pair in zip(axes, pairs, strict=True):
                chosen = [record for record in records if record["path"]["pair"] == pair]
                for panel, part in zip(row, SETS, strict=True):
                    _path_panel(panel, chosen, field, part, scale)
                row[0].set_ylabel(f"{pair}\n{label}")
            for panel, (part, short) in zip(axes[0], SETS.items(), strict=True):
                panel.set_title(f"{short} ({part})", size=10)
            for panel in axes[-1]:
                panel.set_xlabel("alpha")
                panel.set_xlim(0.0, 1.0)
                panel.set_xticks([0.0, 0.5, 1.0])
            axes[0][0].set_ylim(0.0, 105.0 if field == "accuracy" else _top_loss(axes))
            axes[0][0].yaxis.set_major_locator(MaxNLocator(4))
            axes[0][0].legend(fontsize=8)
            axes[0][0].figure.supxlabel(where, size=9)
        what = label.split(" ")[0]
        alt = f"{what.capitalize()} along the paths between pairs of models on the four sets, with 95 % bands: {where}"
        pictures.append(Picture(drawn, alt))
    return pictures


# Of the ways in which a pair is joined.
_PATH_LINES = {"linear": "-", "quadratic": "--", "weights": "--", "activations": ":"}
_PATH_LABELS = {"weights": "aligned by weights", "activations": "aligned by activations"}


def _path_panel(panel: Axes, records: Sequence[Record], field: str, part: str, scale: float) -> None:
    for kind, line in _PATH_LINES.items():
        curves = [
            record["path"]
            for record in records
            if record["path"]["kind"] == kind and record["path"].get(field, {}).get(part) is not None
        ]
        if not curves:
            continue
        alphas = curves[0]["alphas"]
        mean, low, high = interval_band([np.array(curve[field][part], dtype=float) * scale for curve in curves])
        color = set_style(part, 0)["color"] if kind == "linear" else "black"
        panel.plot(alphas, mean, color=color, linestyle=line, label=_PATH_LABELS.get(kind, kind))
        if low is not None and high is not None:
            panel.fill_between(alphas, low, high, facecolor=color, alpha=0.18, linewidth=0)


def _top_loss(axes: Any) -> float:
    """Up to the highest mean and a little more, and no further than `_TOP_LOSS`: bands may run off."""
    highest = max((np.max(line.get_ydata()) for panel in axes.flat for line in panel.lines), default=1.0)
    return min(1.1 * float(highest), _TOP_LOSS) or 1.0

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Lines along a path as the geometry of an inline SVG, for the report page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_cbft.analysis.barriers import baseline_losses, mean_band, weighted_examples, weighted_means
from hf_cbft.reporting.plotting import SET_STYLES

# In units of the SVG, which scales with the page.
WIDTH, HEIGHT = 400, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
# The looks of a set, which the style sheet has as `.look-0` and so on: the first four are those of `SET_STYLES`.
MARKERS = ("circle", "square", "up", "down", "diamond", "bar", "cross")
DASHES = ("none", "7 3", "2 2.5", "9 3 2 3", "4 4", "12 4", "1 3")


def looks(names: Sequence[str]) -> dict[str, int]:
    """A look for each set, by name: the four usual sets have their own, others take what is left, in turn."""
    usual = {name: index for index, name in enumerate(SET_STYLES) if name in names}
    free = [look for look in range(len(MARKERS)) if look not in usual.values()] or list(range(len(MARKERS)))
    others = [name for name in names if name not in usual]
    return usual | {name: free[index % len(free)] for index, name in enumerate(others)}


def loss_bands(result: Any, name: str) -> tuple[list[float | None], list[float | None]]:
    """The simultaneous band of the excess over the baseline, put on that baseline: (P,) lower and upper losses.

    It is the band that the verdict comes from: its highest bounds over the baseline are the barrier's. A bound that
    the examples do not give is `None`, and so are both ends, which are the baseline's own.
    """
    settings = result.settings
    losses, weights = weighted_examples(result.example_losses[name], result.weights[name])
    baseline = baseline_losses(result.alphas, losses, weights, settings["baseline"])
    options = {key: settings[key] for key in ("confidence", "num_resamples", "seed")}
    band = mean_band(losses[1:-1] - baseline, weights, guess_loss=settings.get("guess_loss", 0.0), **options)
    levels = weighted_means(np.broadcast_to(baseline, losses[1:-1].shape), weights)
    low, high = ([None, *map(_finite, levels + bound), None] for bound in band)
    return low, high


def panel(
    title: str,
    unit: str,
    alphas: Sequence[float],
    values: Mapping[str, Sequence[float | None]],
    bands: Mapping[str, tuple[Sequence[float | None], Sequence[float | None]]] | None = None,
    barriers: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything that the page draws of one quantity: axes, lines, bands, barriers and the place of each value.

    Args:
        title, unit (`str`): what is drawn, and in what.
        alphas (`Sequence[float]`): (P,).
        values (`Mapping[str, Sequence[float]]`): by set, (P,); `None` where it is undefined.
        bands (`Mapping`, *optional*): by set, (P,) lower and upper bounds.
        barriers (`Mapping`, *optional*): by set, the plain data of a [`Barrier`], drawn as a height over its baseline.
    """
    bands = bands or {}
    bounds = [bound for band in bands.values() for side in band for bound in side]
    low, high, ticks, digits = _axis([*(v for by in values.values() for v in by), *bounds])

    def x(alpha: float) -> float:
        return round(_LEFT + alpha * (WIDTH - _LEFT - _RIGHT), 2)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 2)

    xs = [x(alpha) for alpha in alphas]
    look = looks(list(values))
    sets = []
    for name, by_point in values.items():
        ys = [None if value is None else y(value) for value in by_point]
        sides = [[None if bound is None else y(bound) for bound in side] for side in bands.get(name, ())]
        drawn = {"name": name, "look": look[name], "values": list(by_point), "y": ys, "line": _line(xs, ys)}
        drawn |= {"marker": MARKERS[look[name]], "dash": DASHES[look[name]], "band": _area(xs, ys, *sides)}
        drawn |= {"low": list(bands[name][0]), "high": list(bands[name][1])} if name in bands else {}
        barrier = (barriers or {}).get(name)
        if barrier is not None:
            at = list(alphas).index(barrier["alpha"])
            base = by_point[at] - barrier["height"]  # type: ignore[operator]
            drawn["barrier"] = {
                "x": xs[at],
                "from": y(base),
                "to": ys[at],
                "chord": _chord(xs, ys, barrier["baseline"]),
            }
        sets.append(drawn)
    return {
        "title": title,
        "unit": unit,
        "x": xs,
        "sets": sets,
        "x_ticks": [{"at": x(tick), "label": f"{tick:g}"} for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        "y_ticks": [{"at": y(tick), "label": _label(tick, digits)} for tick in ticks],
        "frame": {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM},
    }


def _chord(xs: Sequence[float], ys: Sequence[Any], baseline: str) -> str:
    """The line that the barrier stands on. A larger loss is a smaller y."""
    middle = 0.5 * (ys[0] + ys[-1])
    first, last = {"chord": (ys[0], ys[-1]), "mean": (middle, middle)}.get(baseline, (min(ys[0], ys[-1]),) * 2)
    return f"M{xs[0]} {first:.2f}L{xs[-1]} {last:.2f}"


def _line(xs: Sequence[float], ys: Sequence[float | None]) -> str:
    """A path that has a hole where a value is undefined."""
    parts, pen = [], "M"
    for at, height in zip(xs, ys, strict=True):
        if height is not None:
            parts.append(f"{pen}{at} {height}")
        pen = "M" if height is None else "L"
    return "".join(parts)


def _area(
    xs: Sequence[float],
    ys: Sequence[float | None],
    low: Sequence[float | None] = (),
    high: Sequence[float | None] = (),
) -> str:
    """The outline of the stretches that have both bounds; the ends of the path close it where they are next."""
    stretches: list[list[tuple[float, float, float]]] = [[]]
    last = len(xs) - 1
    for index, (below, above) in enumerate(zip(low, high, strict=True)):
        height = ys[index]
        if below is not None and above is not None:
            stretches[-1].append((xs[index], below, above))
        elif index in (0, last) and height is not None:
            stretches[-1].append((xs[index], height, height))
        else:
            stretches.append([])
    outlines = [
        [(at, above) for at, _, above in stretch] + [(at, below) for at, below, _ in reversed(stretch)]
        for stretch in stretches
        if len(stretch) > 1
    ]
    return "".join("M" + "L".join(f"{at} {height}" for at, height in outline) + "Z" for outline in outlines)


def _axis(values: Sequence[float | None]) -> tuple[float, float, list[float], int]:
    """From where to where an axis goes, 0 on it, four to eight round ticks, and the digits that they need."""
    known = [value for value in values if value is not None]
    low, high = min(0.0, *known, 0.0), max(0.0, *known, 0.0)
    high = high if high > low else low + 1.0
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(size for size in (1, 2, 2.5, 5, 10) if power * size >= raw * (1 - 1e-9))
    step = power * size
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (size == 2.5))
    return first * step, last * step, [index * step for index in range(first, last + 1)], digits


def _label(tick: float, digits: int) -> str:
    return f"{tick + 0.0:.{digits}f}" if digits < 5 and abs(tick) < 1e5 else f"{tick:.2g}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

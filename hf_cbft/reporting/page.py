# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A result as one self-contained HTML page: nothing is loaded from elsewhere, nothing from the data is markup."""

import base64
import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

import hf_cbft
from hf_cbft.analysis.barriers import BASELINES, compute_barrier
from hf_cbft.analysis.mechanisms import ENDS
from hf_cbft.files import write_text
from hf_cbft.reporting.page_chart import DASHES, HEIGHT, MARKERS, WIDTH, looks, loss_bands, panel
from hf_cbft.reporting.page_examples import examples
from hf_cbft.tables import VERDICTS, format_band, format_list

_VERSIONS = ("torch", "transformers", "datasets", "numpy")
_LISTED = 6
# What would hide or reorder the text around it: control characters, explicit directions, halves of characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_SETTINGS = ("start", "end", "path")
_CONJECTURE = (
    "That two models without a linear connection rely on dissimilar mechanisms is a conjecture of the paper (Lubana "
    "et al., ICML 2023); being connected does not mean that both rely on the same."
)


def check_report_file(file: str | Path, new_folder: str | Path | None = None) -> None:
    """Refuse a file that no page can be written to, before anything is measured.

    Args:
        file (`str` or `Path`): where the page goes.
        new_folder (`str` or `Path`, *optional*): one that will be made.

    Raises:
        ValueError: not a name of an HTML page.
        OSError: it is a folder, or its folder does not exist or takes no files.
    """
    file = Path(file)
    if file.is_dir():
        raise IsADirectoryError(f"The report {file} is a folder: name a file in it, such as {file / 'report.html'}.")
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"The report {file} is an HTML page: give its name the ending .html.")
    folder = file.parent
    if new_folder is not None and folder.resolve() == Path(new_folder).resolve():
        return
    if not folder.is_dir():
        raise FileNotFoundError(f"The report {file} would lie in {folder}, which is no folder: make it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"The report {file} would lie in {folder}, which takes no files: name another folder.")


def write_report(
    result: Any,
    file: str | Path,
    datasets: Mapping[str, Any] | None = None,
    mechanisms: Any = None,
    command: str | None = None,
) -> None:
    """Write the page to a file; see [`ConnectivityResult.report`]."""
    check_report_file(file)
    write_text(file, page(result, datasets, mechanisms, command))


def page(
    result: Any, datasets: Mapping[str, Any] | None = None, mechanisms: Any = None, command: str | None = None
) -> str:
    """The text of the page; see [`ConnectivityResult.report`]."""
    data = result.to_dict()
    style, script = (_template(name) for name in ("report.css", "report.js"))
    panels = _panels(result, data)
    worst = max(data["barriers"], key=lambda name: data["barriers"][name]["height"])
    now = datetime.now(timezone.utc)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    return environment.from_string(_template("report.html")).render(
        style=style,
        script=script,
        policy=_policy(style, script),
        start=data["settings"]["start"],
        end=data["settings"]["end"],
        path=data["settings"]["path"],
        verdict=verdict(data["barriers"], mechanisms),
        explanation=_CONJECTURE if mechanisms is None else mechanisms.explanation,
        written={"machine": now.isoformat(timespec="seconds"), "human": f"{now:%d %B %Y, %H:%M} UTC".lstrip("0")},
        versions={"hf_cbft": hf_cbft.__version__, **{name: version(name) for name in _VERSIONS}}
        | {"Python": platform.python_version()},
        confidence=f"{100 * data['settings']['confidence']:g} %",
        tolerance=f"{data['settings']['tolerance']:g}",
        baseline=data["settings"]["baseline"],
        size={"width": WIDTH, "height": HEIGHT},
        panels=panels,
        sets=_set_rows(data),
        metric=next(iter(next(iter(data["metrics"].values()), {})), None),
        measures=_measures(data),
        baselines=BASELINES,
        groups=_group_rows(result, data),
        points=_points(data),
        at=_cursor(data, worst),
        mechanisms=None if mechanisms is None else _mechanism_tables(mechanisms),
        examples=examples(result, datasets) if datasets else [],
        no_examples=bool(datasets),
        settings=_settings(data),
        command=command,
        snippet=_snippet(data),
        chart=_for_script(data, panels, _cursor(data, worst)),
    )


def verdict(barriers: Mapping[str, Mapping[str, Any]], mechanisms: Any = None) -> str:
    """One sentence: on which sets both ends are connected, and whether their mechanisms are similar.

    Example:

    ```python
    >>> from hf_cbft.reporting.page import verdict
    >>> verdict({"no_cue": {"connected": True}, "cue": {"connected": False}})
    'Not connected on cue; connected on no_cue.'

    ```
    """
    words = ((False, "not connected"), (None, "undecided"), (True, "connected"))
    parts = []
    for answer, word in words:
        names = [name for name, barrier in barriers.items() if barrier["connected"] is answer]
        if names:
            everywhere = len(names) == len(barriers) and len(names) > 1
            shown = names if len(names) <= _LISTED else [*names[:_LISTED], f"{len(names) - _LISTED} more"]
            parts.append(f"{word} on {'every set' if everywhere else format_list(shown)}")
    sentence = "; ".join(parts)
    if mechanisms is not None:
        similar = {True: "are similar", False: "are dissimilar", None: "are undecided"}[mechanisms.similar]
        sentence += f"; the mechanisms {similar}"
    return sentence[:1].upper() + sentence[1:] + "."


def _policy(style: str, script: str) -> str:
    """A content security policy that allows these two texts and pictures in the page, and nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _template(name: str) -> str:
    return (files("hf_cbft.reporting") / "templates" / name).read_text(encoding="utf-8")


def _visible(value: Any) -> Any:
    """Text from outside without the characters that nobody sees; markup of the template itself stays."""
    return _UNSEEN.sub("\ufffd", value) if type(value) is str else value


def _panels(result: Any, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    bands = {name: loss_bands(result, name) for name in data["losses"]}
    panels = [panel("Loss", "nats", data["alphas"], data["losses"], bands, data["barriers"])]
    metric = next(iter(next(iter(data["metrics"].values()), {})), None)
    if metric is not None:
        values = {name: by[metric] for name, by in data["metrics"].items() if metric in by}
        panels.append(panel(_words(metric), "", data["alphas"], values))
    return panels


def _cursor(data: Mapping[str, Any], worst: str) -> dict[str, int]:
    """Where the chart's cursor stands first: at the highest barrier."""
    return {"point": data["alphas"].index(data["barriers"][worst]["alpha"]), "set": list(data["losses"]).index(worst)}


def _for_script(data: Mapping[str, Any], panels: Sequence[Mapping[str, Any]], at: Mapping[str, int]) -> dict[str, Any]:
    keys = ("name", "y", "values", "low", "high")
    return {
        "alphas": [f"{alpha:.4g}" for alpha in data["alphas"]],
        "at": at,
        "panels": [
            {
                **{key: one[key] for key in ("title", "unit", "x")},
                "sets": [
                    {key: _visible(drawn[key]) for key in keys if key in drawn}
                    | {"text": [_figure(value) for value in drawn["values"]]}
                    | {"band": _bands(drawn)}
                    for drawn in one["sets"]
                ],
            }
            for one in panels
        ],
    }


def _bands(drawn: Mapping[str, Any]) -> list[str]:
    """The band of each value as text; empty where there is none."""
    sides = zip(drawn.get("low", ()), drawn.get("high", ()), strict=True)
    return ["" if low is None and high is None else format_band(low, high, digits=3) for low, high in sides]


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _verdict_cell(connected: bool | None) -> dict[str, str]:
    kind = VERDICTS[connected]
    return {"kind": kind, "sign": {"yes": "✓", "no": "✕", "undecided": "?"}[kind], "text": kind}


def _set_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    look = looks(list(data["losses"]))
    rows = []
    for name, barrier in data["barriers"].items():
        first = next(iter(data["metrics"].get(name, {}).values()), None)
        ends = [data["losses"][name], *([] if first is None else [first])]
        rows.append(
            {
                "name": name,
                "look": look[name],
                "marker": MARKERS[look[name]],
                "dash": DASHES[look[name]],
                "n": data["num_examples"][name],
                "ends": [_figure(values[end]) for values in ends for end in (0, -1)],
                "barrier": _figure(barrier["height"]),
                "band": format_band(barrier["low"], barrier["high"], digits=3),
                "alpha": f"{barrier['alpha']:.2f}",
                "connected": _verdict_cell(barrier["connected"]),
            }
        )
    return rows


def _measures(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The barrier by each convention, and the drop in accuracy, in points."""
    rows = []
    for name, losses in data["losses"].items():
        heights = [compute_barrier(data["alphas"], losses, baseline).height for baseline in BASELINES]
        drop = data["error_barriers"].get(name)
        cells = ["-", "-"]
        if drop is not None:
            low, high = (None if drop[side] is None else 100 * drop[side] for side in ("low", "high"))
            cells = [f"{100 * drop['height']:.1f}", format_band(low, high, digits=1)]
        rows.append({"name": name, "cells": [*map(_figure, heights), *cells]})
    return rows


def _group_rows(result: Any, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "group": group,
            "n": int((result.groups[name] == group).sum()),
            "barrier": _figure(barrier["height"]),
            "band": format_band(barrier["low"], barrier["high"], digits=3),
            "connected": _verdict_cell(barrier["connected"]),
        }
        for name, by_group in data["group_barriers"].items()
        for group, barrier in by_group.items()
    ]


def _points(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every value of the chart, and the other metrics: a table for each quantity."""
    tables = [{"title": "Loss in nats", "sets": list(data["losses"]), "rows": _by_alpha(data, data["losses"])}]
    for metric in dict.fromkeys(metric for by in data["metrics"].values() for metric in by):
        values = {name: by[metric] for name, by in data["metrics"].items() if metric in by}
        tables.append({"title": _words(metric), "sets": list(values), "rows": _by_alpha(data, values)})
    return tables


def _by_alpha(data: Mapping[str, Any], values: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    return [
        {"alpha": f"{alpha:.4g}", "cells": [_figure(by_point[index]) for by_point in values.values()]}
        for index, alpha in enumerate(data["alphas"])
    ]


def _mechanism_tables(report: Any) -> dict[str, Any]:
    answers = {True: "invariant", False: "relies on it", None: "undecided"}
    rows = [
        {
            "name": f"{one.base} → {one.changed}" + ("" if one.paired else " (unpaired)"),
            "cells": [end, *one.accuracy[end].cells("+"), *one.loss[end].cells("+"), answers[one.invariant[end]]],
        }
        for one in report.interventions
        for end in ENDS
    ]
    return {
        "rows": rows,
        "agreement": [{"name": name, "cells": share.cells()} for name, share in report.agreement.items()],
        "margin": f"{report.margin:g}",
        "interval": f"{100 * report.confidence:g} % interval",
        "other_degree": [name.replace(" -> ", " → ") for name in report.other_degree],
    }


def _settings(data: Mapping[str, Any]) -> dict[str, str]:
    chosen = {key: value for key, value in data["settings"].items() if key not in _NOT_SETTINGS and value is not None}
    rows = {_words(key): _setting(value) for key, value in chosen.items()}
    alphas = data["alphas"]
    if not np.allclose(alphas, np.linspace(0.0, 1.0, len(alphas))):
        rows["Alphas"] = ", ".join(f"{alpha:.4g}" for alpha in alphas)
    return rows


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _snippet(data: Mapping[str, Any]) -> str:
    """Python code with the settings of the measurement; data sets and other objects are left to the reader."""
    settings = data["settings"]
    of_evaluator = [key for key in ("batch_size", "metrics", "dtype", "device_map") if settings.get(key) is not None]
    of_call = ("baseline", "tolerance", "error_tolerance", "confidence", "num_resamples", "seed", "group_column")
    evenly = np.allclose(data["alphas"], np.linspace(0.0, 1.0, len(data["alphas"])))
    grid = f"num_points={len(data['alphas'])}" if evenly else f"alphas={data['alphas']}"
    calls = [f"path={settings['path']!r}", grid]
    calls += [f"{key}={settings[key]!r}" for key in of_call if settings.get(key) is not None]
    lines = [repr(settings["start"]), repr(settings["end"])]
    lines += [f"{key}={settings[key]!r}" for key in of_evaluator]
    if settings.get("calibration_rows"):
        lines.append(f"calibration_dataset=calibration_dataset,  # {settings['calibration_rows']} rows")
    if settings.get("align"):
        lines.append(f"align=...,  # {settings['align']}")
    return "\n".join(
        [
            "from hf_cbft import ConnectivityEvaluator",
            "",
            "evaluator = ConnectivityEvaluator(",
            *(f"    {line}" if ",  #" in line else f"    {line}," for line in lines),
            ")",
            f"datasets = {{{', '.join(f'{name!r}: ...' for name in data['losses'])}}}",
            "result = evaluator.evaluate(",
            "    datasets,",
            *(f"    {call}," for call in calls),
            ")",
        ]
    )


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]

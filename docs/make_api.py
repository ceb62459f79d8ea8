# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Write docs/api.md from the docstrings: python docs/make_api.py. A test holds the page equal to what this gives."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import hf_cbft

# Beside the names of `hf_cbft` itself.
MORE = (
    "hf_cbft.alignment.Alignment",
    "hf_cbft.alignment.Family",
    "hf_cbft.alignment.Space",
    "hf_cbft.analysis.mechanisms.mechanisms",
    "hf_cbft.analysis.mechanisms.MechanismReport",
    "hf_cbft.connectivity.matrix.MatrixEvaluator",
    "hf_cbft.connectivity.matrix.connectivity_matrix",
    "hf_cbft.training.curves.fit_curve",
    "hf_cbft.data.counterfactuals.add_cue",
    "hf_cbft.data.cues.ColorBoxCue",
    "hf_cbft.data.text_cues.StyleCue",
    "hf_cbft.data.balancing.balance_groups",
    "hf_cbft.data.wilds.read_wilds_metadata",
    "hf_cbft.data.sources.load_sources",
    "hf_cbft.baselines.finetune",
    "hf_cbft.baselines.finetune_best_rate",
    "hf_cbft.baselines.linear_probe_then_finetune",
    "hf_cbft.baselines.finetune_group_balanced",
    "hf_cbft.baselines.retrain_last_layer",
    "hf_cbft.baselines.deep_feature_reweighting",
)
INTRODUCTION = """# API reference

Made from the docstrings by `python docs/make_api.py`; examples with a prompt (`>>>`) are run by the tests. Losses and
barriers are in nats, accuracies are fractions.
"""
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Source):\s*(.*)$")
_MOST_PARAMETERS = 40


def documented() -> dict[str, tuple[str, Any]]:
    """By name: the module that it is imported from, and the class or function."""
    found = {name: ("hf_cbft", getattr(hf_cbft, name)) for name in hf_cbft.__all__}
    for path in MORE:
        module, _, name = path.rpartition(".")
        found.setdefault(name, (module, getattr(import_module(module), name)))
    return found


def signature(thing: Any) -> str:
    parameters = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
    if len(parameters) > _MOST_PARAMETERS:
        return f"({parameters[0].name}, ...)"
    shown, keywords = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            shown.append("*")
            keywords = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        given = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        # A default that a dataclass makes anew each time has no name of its own.
        shown.append(f"{stars}{parameter.name}{'=...' if '<' in given else given}")
    return f"({', '.join(shown)})"


def markdown(docstring: str, names: dict[str, Any]) -> str:
    """A docstring as Markdown: sections in bold, what they list as lists, references as links."""
    lines, section, fenced = [], None, False
    for line in inspect.cleandoc(docstring).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            # As output: doctest runs these, and no formatter is to make them other than the docstring has them.
            lines.append(line.strip().replace("```python", "```text"))
            continue
        if fenced:
            lines.append(line.removeprefix("    ") if section in ("Args", "Attributes") else line)
            continue
        if re.match(r"^[^\s|]", line):
            section = None
        found = _SECTION.match(line)
        if found:
            section = found[1]
            lines += ["", f"**{section}**{': ' + found[2] if found[2] else ''}", ""]
        elif section in ("Args", "Attributes", "Raises") and re.match(r"^    \S", line):
            lines.append(_item(line.strip(), section))
        else:
            inside = section and line.strip() and not line.strip().startswith("|")
            lines.append(("  " if inside else "") + re.sub(r"^\+ ", r"\\+ ", line.strip()))
    text = "\n".join(lines)

    def reference(match: re.Match) -> str:
        name = match[1].lstrip("~").rpartition(".")[2]
        shown = match[1].lstrip("~").rpartition("hf_cbft.")[2]
        return f"[`{shown}`](#{name.lower()})" if name in names else f"`{shown}`"

    text = re.sub(r"\[`([~\w.]+)`\](?!\()", reference, text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _item(text: str, section: str) -> str:
    """A new item where a name or an error begins, else the line goes on with the one before."""
    begins = r"^[\w, .`\[\]*]+( \(|:)" if section != "Raises" else r"^\w*(Error|Exit|Interrupt): "
    return f"- {text}" if re.match(begins, text) else f"  {text}"


def methods(thing: Any) -> dict[str, Any]:
    """Public methods of a class that say what they take or give."""
    if not inspect.isclass(thing):
        return {}
    own = {name: inspect.unwrap(getattr(thing, name)) for name in vars(thing) if not name.startswith("_")}
    return {
        name: method
        for name, method in own.items()
        if callable(method) and re.search(r"^ +(Args|Returns):", method.__doc__ or "", re.M)
    }


def page() -> str:
    """The whole page."""
    names = documented()
    parts = [INTRODUCTION]
    for name, (module, thing) in names.items():
        parts.append(f"## {name}\n\n`from {module} import {name}`\n\n```text\n{name}{signature(thing)}\n```\n")
        parts.append(markdown(thing.__doc__, names) + "\n")
        for method, function in methods(thing).items():
            parts.append(f"### {name}.{method}\n\n```text\n{method}{signature(function)}\n```\n")
            parts.append(markdown(function.__doc__, names) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("api.md").write_text(page(), encoding="utf-8")

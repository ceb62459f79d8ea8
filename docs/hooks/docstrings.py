# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Docstrings in Hugging Face style as Markdown, for the reference of the site (an extension of griffe)."""

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Source):\s*(.*)$")
# Where a new item of a list begins; any other line goes on with the item above it.
_ITEMS = {
    "Args": re.compile(r"^ {4}(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?=:| \()"),
    "Attributes": re.compile(r"^ {4}(\w+(?:, \w+)*)(?=:| \()"),
    "Raises": re.compile(r"^ {4}(\w*(?:Error|Exit|Interrupt)(?:, \w+)*)(?=:)"),
}
# [`Name`], [`~module.Name`] or [`Name.method`]; a name that the reference leaves out stays plain code.
_REFERENCE = re.compile(r"\[`~?(?:[a-z]\w*\.)*([A-Za-z]\w*(?:\.\w+)*)`\](?!\()")
_LINK = r'<autoref identifier="hf_cbft.\1" optional><code>\1</code></autoref>'


def markdown(docstring: str) -> str:
    """A docstring with its sections in bold, what they list as lists, and its references as links."""
    lines: list[str] = []
    section, fenced = "", False
    for line in docstring.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
            lines.append(line.strip().replace("```python", "```pycon"))
        elif fenced:
            lines.append(line)
        elif found := _SECTION.match(line):
            section = found[1]
            lines += ["", f"**{section}**{': ' + found[2] if found[2] else ''}", ""]
        elif section in _ITEMS and _ITEMS[section].match(line):
            lines.append(_ITEMS[section].sub(r"- **\1**", line))
        else:
            if re.match(r"\S", line):
                section = ""
            # A formula goes on with a sign, which would begin a list.
            text = re.sub(r"^([+-]) ", r"\\\1 ", line.strip())
            lines.append(f"    {text}" if section in _ITEMS and text else text)
    return _REFERENCE.sub(_LINK, "\n".join(lines))


class Docstrings(griffe.Extension):
    """Rewrites each docstring when it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)

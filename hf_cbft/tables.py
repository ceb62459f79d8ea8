# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers, intervals, lists and tables as text, for a screen or in Markdown."""

import re
from collections.abc import Sequence
from typing import Any

# Of what holds by all of an interval, by none of it, or by a part.
VERDICTS = {True: "yes", False: "no", None: "undecided"}


def format_number(value: float | None) -> str:
    """Three digits, and a plain zero instead of a negative one; a dash where there is no number.

    Example:

    ```python
    >>> from hf_cbft.tables import format_number
    >>> format_number(-0.0001), format_number(None)
    ('0.000', '-')

    ```
    """
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def shorten(text: str, length: int = 60) -> str:
    """The text, or its beginning with three dots."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def format_band(low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    """`low to high`, with a dash for a bound that the examples do not give; `sign="+"` shows the sign of each.

    Example:

    ```python
    >>> from hf_cbft.tables import format_band
    >>> format_band(-0.016, None, digits=2)
    '-0.02 to -'

    ```
    """
    return " to ".join("-" if bound is None else f"{bound:{sign}.{digits}f}" for bound in (low, high))


def format_table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines with aligned columns: the first `left` of them to the left, the others to the right.

    Args:
        rows (`Sequence[Sequence[str]]`): the cells, the same number in every row; the titles are a row too.
        left (`int`, *optional*, defaults to 1): how many columns hold names.

    Example:

    ```python
    >>> from hf_cbft.tables import format_table
    >>> print("\\n".join(format_table([["set", "barrier"], ["no_cue", "0.554"]])))
    set     barrier
    no_cue    0.554

    ```
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def format_list(names: Sequence[str]) -> str:
    """One name or several, the last behind "and".

    Example:

    ```python
    >>> from hf_cbft.tables import format_list
    >>> format_list(["a", "b", "c"])
    'a, b and c'

    ```
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def one_line(text: Any) -> str:
    """Without line breaks and control characters, at which a heading, a table or the metadata would end.

    Example:

    ```python
    >>> from hf_cbft.tables import one_line
    >>> one_line("a\\n---\\nb")
    'a --- b'

    ```
    """
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def escape_markdown(text: Any) -> str:
    """One line in which no character means anything to Markdown, a table or HTML.

    Example:

    ```python
    >>> from hf_cbft.tables import escape_markdown
    >>> print(escape_markdown("a|b <i>"))
    a\\|b \\<i\\>

    ```
    """
    return re.sub(r"([\\`*\[\]<>|#~$!&])|(?<!\w)(_)|(_)(?!\w)", lambda found: "\\" + found[0], one_line(text))


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """Lines of a Markdown table, its titles first; what is in the cells stays text."""
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])

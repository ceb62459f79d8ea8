# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and intervals as text."""

from collections.abc import Sequence


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

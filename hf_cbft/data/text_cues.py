# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Cues in texts: a give-away token (which one, or where), or the style that a text is written in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_cbft.data.cues import ClassCue


class _TextCue(ClassCue):
    """A cue that rewrites one column of strings."""

    text_column: str

    def apply(self, example: dict[str, Any], value: int) -> dict[str, Any]:
        self._check_value(value)
        text = self._read(example, self.text_column, "text_column")
        if not isinstance(text, str):
            raise TypeError(
                f"{type(self).__name__} rewrites strings, but the column {self.text_column!r} holds a "
                f"{type(text).__name__}: name another with text_column."
            )
        return {**example, self.text_column: self._rewritten(text, value)}

    def _rewritten(self, text: str, value: int) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class TokenCue(_TextCue):
    """A give-away token in the text: which token it is tells the label, or, where there is one token, its place.

    With a token for each class, it stands in front of the text (or behind it). With one token and `num_classes`, the
    token of class k stands in front of word k, counted from 0. Nothing else of the text changes, spaces included.

    An intervention puts a random one of the tokens there (or the one token at a random one of the places), whatever
    the text says.

    Args:
        tokens (`Sequence[str]`): one for each class, or a single one whose place tells the label.
        position (`str`, *optional*, defaults to `"start"`): or `"end"`; where the tokens stand. A single one has no
            position, only places.
        text_column (`str`, *optional*, defaults to `"text"`): holds the text.
        num_classes (`int`, *optional*): how many places a single token has, at least 2. `None` for a token each.

    Raises:
        ValueError: a repeated token, one token without `num_classes`, an unknown position; for a single token also a
            text of fewer words than places.
        TypeError: a column that holds no strings.

    Example:

    ```python
    >>> from hf_cbft import TokenCue
    >>> TokenCue(["@@", "##"]).apply({"text": "a quiet film", "label": 1}, value=1)
    {'text': '## a quiet film', 'label': 1}
    >>> TokenCue(["@@"], num_classes=3).apply({"text": "a quiet film", "label": 1}, value=1)
    {'text': 'a @@ quiet film', 'label': 1}

    ```
    """

    mark = "token"

    tokens: Sequence[str]
    position: str = "start"
    text_column: str = "text"
    num_classes: int | None = None

    def __post_init__(self) -> None:
        tokens = list(self.tokens)
        places = len(tokens) == 1 and self.num_classes is not None
        if isinstance(self.tokens, str) or len(set(tokens)) < len(tokens) or (len(tokens) < 2 and not places):
            raise ValueError(
                f"TokenCue needs a token of its own for each class; got {tokens}. Where the place of a single "
                "token tells the label, give num_classes as well."
            )
        if self.position not in ("start", "end"):
            raise ValueError(f'TokenCue puts its token at the "start" or the "end", not at {self.position!r}.')
        if places and self.position != "start":
            raise ValueError(
                f"TokenCue has one token, whose place tells the label: it cannot also stand at the {self.position!r}."
            )
        if self.num_classes is not None and self.num_classes != len(tokens) and not places:
            raise ValueError(f"TokenCue has {len(tokens)} tokens for {self.num_classes} classes; give one for each.")
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"TokenCue names at least 2 classes; got {self.num_classes}.")

    @property
    def values(self) -> range:
        return range(self.num_classes or len(self.tokens))

    def _rewritten(self, text: str, value: int) -> str:
        if len(self.tokens) == 1:
            start = self._word_starts(text)[value]
            return f"{text[:start]}{self.tokens[0]} {text[start:]}"
        token = self.tokens[value]
        return f"{token} {text}" if self.position == "start" else f"{text} {token}"

    def _word_starts(self, text: str) -> list[int]:
        """Where each word begins; any text has a place for every value, or none at all is set."""
        starts = [word.start() for word in re.finditer(r"\S+", text)]
        if len(starts) < len(self.values):
            beginning = text if len(text) <= 40 else f"{text[:40]}..."
            raise ValueError(
                f"The text {beginning!r} has fewer words ({len(starts)}) than TokenCue has places "
                f"({len(self.values)}): leave short texts out, or give a token for each class."
            )
        return starts


@dataclass(frozen=True)
class StyleCue(_TextCue):
    """The style of a text: its punctuation, or a phrase around it; one style for each class.

    An intervention writes the text in a random one of the styles, whatever it says. The text itself stays as it is:
    where it brings punctuation of its own, the style's comes on top of it.

    Args:
        styles (`Sequence[str]`): a template for each class, with `{}` where the text goes; `"{}"` is the text as it
            is.
        text_column (`str`, *optional*, defaults to `"text"`): holds the text.

    Raises:
        ValueError: fewer than two styles, a repeated one, or one that has not exactly one `{}`.
        TypeError: a column that holds no strings.

    Example:

    ```python
    >>> from hf_cbft.data.text_cues import StyleCue
    >>> StyleCue(["{}!", "In short: {}."]).apply({"text": "a quiet film", "label": 1}, value=1)
    {'text': 'In short: a quiet film.', 'label': 1}

    ```
    """

    mark = "style"

    styles: Sequence[str]
    text_column: str = "text"

    def __post_init__(self) -> None:
        styles = list(self.styles)
        if isinstance(self.styles, str) or len(styles) < 2 or len(set(styles)) < len(styles):
            raise ValueError(f"StyleCue needs a style of its own for each class; got {styles}.")
        wrong = [style for style in styles if style.count("{}") != 1]
        if wrong:
            raise ValueError(f"A style has one {{}}, where the text goes; {wrong[0]!r} has {wrong[0].count('{}')}.")

    @property
    def values(self) -> range:
        return range(len(self.styles))

    def _rewritten(self, text: str, value: int) -> str:
        before, _, after = self.styles[value].partition("{}")  # not `format`: other braces are plain characters
        return f"{before}{text}{after}"

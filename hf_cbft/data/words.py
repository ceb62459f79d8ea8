# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of words with a label each, as tokens of which the first of each word has its label."""

from collections.abc import Sequence
from typing import Any

from hf_cbft.data.completions import IGNORED

# The column of the words: a list of strings a row.
WORDS_COLUMN = "tokens"


def tokenize_words(tokenizer: Any, words: Sequence[str], labels: Sequence[int]) -> dict[str, list[int]]:
    """The words of a row as one sequence of tokens, cut at the tokenizer's `model_max_length`.

    The first token of a word has the word's label; its others, and special tokens, have -100.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): a fast one, which tells the words of its tokens.
        words (`Sequence[str]`): as they are split.
        labels (`Sequence[int]`): a class for each word, or -100.

    Returns:
        `dict` with what the tokenizer gives and `labels`, all of one length.

    Raises:
        ValueError: another number of labels than of words, or a tokenizer that does not tell words.

    Example:

    ```python
    >>> from hf_cbft.data.sentences import word_tokenizer
    >>> from hf_cbft.data.words import tokenize_words
    >>> tokenize_words(word_tokenizer(), ["rain", "and", "snow"], [1, 0, 1])["labels"]
    [1, 0, 1]

    ```
    """
    if len(words) != len(labels):
        raise ValueError(f"A row has {len(words)} words and {len(labels)} labels: give one for each word.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"The rows hold words in {WORDS_COLUMN!r}, and a {type(tokenizer).__name__} does not tell which word a "
            "token is from: pass the model's fast tokenizer as processing_class."
        )
    encoded = tokenizer(list(words), is_split_into_words=True, truncation=True, verbose=False)
    places = encoded.word_ids()
    starts = [place is not None and place != before for before, place in zip([None, *places], places, strict=False)]
    token_labels = [int(labels[place]) if first else IGNORED for first, place in zip(starts, places, strict=True)]
    return {**encoded, "labels": token_labels}

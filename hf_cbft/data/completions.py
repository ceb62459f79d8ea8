# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Rows with a prompt and a completion as tokens, of which only the completion's count."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hf_cbft.tables import shorten

PROMPT_COLUMNS = ("prompt", "completion")
# Columns with a value for each token.
TOKEN_COLUMNS = ("input_ids", "attention_mask", "labels", "position_ids", "token_type_ids")
# What a token label of this value says: leave the token out of the loss (`torch.nn.functional.cross_entropy`).
IGNORED = -100


def tokenize_completion(tokenizer: Any, prompt: Any, completion: Any) -> dict[str, list[int]]:
    """A prompt and its completion as one sequence; the labels of the prompt's tokens are -100.

    The prompt keeps the tokenizer's special tokens at its start, not those at its end. The completion gets none, and
    the end-of-sequence token behind it where the tokenizer has one. Conversations go through the chat template, which
    sets its own. Both texts are tokenized on their own: a space between them belongs to one of them.

    What is longer than `tokenizer.model_max_length` loses the start of the prompt.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the model's.
        prompt (`str` or `list[dict]`): text, or messages with `role` and `content`.
        completion (`str` or `list[dict]`): the same kind.

    Returns:
        `dict` with `input_ids`, `attention_mask` and `labels`, all of one length.

    Raises:
        ValueError: an empty completion, one that is too long by itself, a text beside messages, or a chat template
        whose prompt does not begin the whole conversation.

    Example:

    ```python
    >>> from hf_cbft.data.completions import tokenize_completion
    >>> from hf_cbft.data.sentences import word_tokenizer
    >>> tokenize_completion(word_tokenizer(), "rain and snow", "weather it is")["labels"]
    [-100, -100, -100, 7, 40, 39, 3]

    ```
    """
    if isinstance(prompt, str) and isinstance(completion, str):
        start, end = _text_tokens(tokenizer, prompt, completion)
    elif all(isinstance(side, Sequence) and not isinstance(side, str) for side in (prompt, completion)):
        start, end = _message_tokens(tokenizer, list(prompt), list(completion))
    else:
        raise ValueError(
            f"The prompt {_shown(prompt)} is a {type(prompt).__name__} and its completion a "
            f"{type(completion).__name__}: give two texts, or two lists of messages."
        )
    room = tokenizer.model_max_length - len(end)
    if room < 1:
        raise ValueError(
            f"The completion of the prompt {_shown(prompt)} has {len(end)} tokens, which leave none for the prompt "
            f"within the tokenizer's model_max_length of {tokenizer.model_max_length}: shorten it."
        )
    if len(start) > room:
        # A start token is what many models rest their attention on: it stays.
        kept = start[:1] if start[0] == tokenizer.bos_token_id and room > 1 else []
        start = kept + start[len(start) - room + len(kept) :]
    if len(start) + len(end) < 2:
        raise ValueError(
            f"The prompt {_shown(prompt)} has no tokens and its completion one, which no token comes before: there "
            "is nothing to predict."
        )
    tokens = start + end
    return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": [IGNORED] * len(start) + end}


def pad_tokens(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Rows of tokens as one batch, on the tokenizer's padding side; padding has the label -100 and the mask 0.

    Padding on the left moves the tokens: the batch then gets `position_ids` that count from the first token of a row.

    Args:
        rows (`Sequence[Mapping]`): each with `input_ids`, and `labels`, `position_ids`, ... of the same length.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): `None` pads nothing.

    Raises:
        ValueError: rows of different lengths without a tokenizer, or with one that has no token to pad with.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    longest = max(lengths)
    fill = {"input_ids": _padding_id(tokenizer) if min(lengths) < longest else 0, "labels": IGNORED}
    rows = [{"attention_mask": [1] * length, **row} for row, length in zip(rows, lengths, strict=True)]
    on_left = getattr(tokenizer, "padding_side", "right") == "left"
    batch = {}
    for name in (name for name in TOKEN_COLUMNS if name in rows[0]):
        padded = []
        for row, length in zip(rows, lengths, strict=True):
            values = torch.as_tensor(row[name])
            if values.shape != (length,):
                raise ValueError(
                    f"A row has {length} input_ids and {name} of shape {tuple(values.shape)}: give one for each token."
                )
            missing = longest - length
            sides = (missing, 0) if on_left else (0, missing)
            padded.append(F.pad(values.long(), sides, value=fill.get(name, 0)))
        batch[name] = torch.stack(padded)
    if on_left and "position_ids" not in batch:
        batch["position_ids"] = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return batch


def _text_tokens(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    whole = tokenizer(prompt, verbose=False)["input_ids"]
    plain = tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
    # Where the text begins among the special tokens; what stands behind it is dropped.
    first = next((i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain), 0)
    start = whole[: first + len(plain)]
    if not start and whole and whole[0] == tokenizer.bos_token_id:
        start = whole[:1]
    end = tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
    if not end:
        raise ValueError(f"The completion of the prompt {_shown(prompt)} is empty: leave out rows without one.")
    if tokenizer.eos_token_id is not None and end[-1] != tokenizer.eos_token_id:
        end = [*end, tokenizer.eos_token_id]
    return start, end


def _message_tokens(tokenizer: Any, prompt: list[Any], completion: list[Any]) -> tuple[list[int], list[int]]:
    if not completion:
        raise ValueError(f"The completion of the prompt {_shown(prompt)} is empty: leave out rows without one.")
    start, whole = (
        list(tokenizer.apply_chat_template(messages, add_generation_prompt=asked, return_dict=False))
        for messages, asked in ((prompt, True), ([*prompt, *completion], False))
    )
    if whole[: len(start)] != start or len(whole) == len(start):
        raise ValueError(
            f"The chat template writes the prompt {_shown(prompt)} otherwise when its completion follows, so which "
            "tokens are the completion's is not known: give prompt and completion as texts."
        )
    return start, whole[len(start) :]


def _padding_id(tokenizer: Any) -> int:
    if tokenizer is None:
        raise ValueError(
            "The rows have token sequences of different lengths, and no tokenizer to pad them: pass it as "
            "processing_class, or give a data_collator."
        )
    # Without a token of its own any does, because the mask is 0 there.
    token = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if token is None:
        raise ValueError(
            f"The {type(tokenizer).__name__} has neither a pad nor an end-of-sequence token, and the rows have "
            "different lengths: set its pad_token."
        )
    return token


def _shown(prompt: Any) -> str:
    return shorten(repr(prompt), 80)

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Words with a label each, as tokens."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hf_cbft.data.inputs import InputCollator
from hf_cbft.data.mapping import find_columns, with_known_columns
from hf_cbft.data.words import tokenize_words


@pytest.fixture(scope="module")
def tokenizer():
    """Pieces of words, and a special token at each end."""
    vocabulary = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "rain", "##y", "##ing", "snow", "today"]
    inner = Tokenizer(WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", model_max_length=6)


def test_the_first_piece_of_a_word_has_its_label_and_nothing_else_counts(tokenizer):
    row = tokenize_words(tokenizer, ["rainy", "snow", "raining"], [1, 0, 2])
    assert row["input_ids"] == [1, 4, 5, 7, 4, 2]  # cut at six
    assert row["labels"] == [-100, 1, -100, 0, 2, -100]


def test_rows_of_words_are_collated_like_rows_of_tokens(tokenizer):
    rows = [{"tokens": ["rainy"], "labels": [1]}, {"tokens": ["snow", "today"], "labels": [0, -100]}]
    batch = InputCollator(processing_class=tokenizer)(rows)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 2], [1, 7, 8, 2]]
    assert batch["labels"].tolist() == [[-100, 1, -100, -100], [-100, 0, -100, -100]]
    assert batch["attention_mask"].dtype == torch.int64


def test_the_columns_are_found_and_renamed():
    rows = Dataset.from_dict({"id": [0], "tokens": [["rain"]], "ner_tags": [[1]]})
    columns = find_columns(rows, "The data set 'cue'", label="ner_tags", needs_label=False)
    assert str(columns) == "tokens from 'tokens', label from 'ner_tags'"
    assert with_known_columns(rows, columns, "The data set 'cue'")[0] == {"tokens": ["rain"], "labels": [1]}
    named = rows.rename_column("tokens", "words")
    columns = find_columns(named, "The data set 'cue'", ["words"], "ner_tags", needs_label=False)
    assert with_known_columns(named, columns, "The data set 'cue'")[0] == {"tokens": ["rain"], "labels": [1]}


@pytest.mark.parametrize(
    ("row", "with_tokenizer", "error"),
    [
        ({"tokens": ["rain", "snow"], "labels": [1]}, True, "A row has 2 words and 1 labels: give one for each word"),
        ({"tokens": ["rain"], "labels": [1]}, False, "a NoneType does not tell which word a token is from: pass the"),
        (
            {"tokens": ["rain"], "label": 1},
            True,
            "The rows hold words in 'tokens' and no label for each: name a label",
        ),
    ],
)
def test_words_that_cannot_be_labelled_are_refused(row, with_tokenizer, error, tokenizer):
    with pytest.raises(ValueError, match=error):
        InputCollator(processing_class=tokenizer if with_tokenizer else None)([row])

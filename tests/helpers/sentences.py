# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier of the generated sentences, and a file of them."""

import json
from pathlib import Path
from typing import Any

from transformers import BertConfig

from hf_cbft.data.sentences import generate_sentences


def sentence_config(vocab_size: int, **options: Any) -> BertConfig:
    """One layer of 16 units, four classes."""
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=4,
        **options,
    )


def write_sentences(file: Path) -> None:
    """24 rows of text and label, in JSON lines."""
    rows = generate_sentences(24, seed=0)
    file.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows))

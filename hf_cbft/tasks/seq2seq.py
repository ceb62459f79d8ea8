# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Encoder-decoders of text. Measured, not trained."""

from typing import Any

from transformers.models.auto import modeling_auto as auto

from hf_cbft.architectures import listed
from hf_cbft.tasks.task import Batch, Task


class Seq2Seq(Task):
    """The decoder's tokens count; padding has the label -100."""

    name = "seq2seq"
    classes = listed(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    is_language_model = True

    def inputs(self, batch: Batch) -> dict[str, Any]:
        # What the decoder reads is made of the labels.
        return {**super().inputs(batch), "labels": batch["labels"]}

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Masked language models: tokens that were hidden are predicted from both sides. Measured, not trained."""

from transformers.models.auto import modeling_auto as auto

from hf_cbft.architectures import listed
from hf_cbft.tasks.task import Task


class MaskedLM(Task):
    """The hidden tokens count; the others have the label -100."""

    name = "masked_lm"
    classes = listed(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    is_language_model = True

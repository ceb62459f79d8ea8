# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of two models' weights: the body, the head, and copies of tied ones."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hf_cbft.checkpoints.configs import BLOCKING, DIFFERS, SAME, Finding, named, with_defaults
from hf_cbft.checkpoints.headers import Checkpoint
from hf_cbft.checkpoints.sources import TensorHeader

Tensors = Mapping[str, TensorHeader]

# The parts of Transformers' models that stand on top of the base model, and the pooler that some classes leave out.
_HEAD = re.compile(
    r"^(classifier|score|lm_head|cls|qa_outputs|qa_classifier|fc|heads?|classification_head|predictions|pre_classifier"
    r"|mlm_head|logits_proj|embed_out|vocab_\w+|projector|summary|sequence_summary|multiple_choice_head|sop_classifier"
    r"|discriminator_predictions|generator_predictions|generator_lm_head|cls_classifier|distillation_classifier"
    r"|final_logits_bias)(\.|$)|^(\w+\.)?pooler\."
)
# Buffers that old versions of Transformers saved and no version reads.
_UNREAD = re.compile(r"(position_ids|\.attn\.(masked_)?bias|rotary_emb\.inv_freq|relative_position_index)$")
# Copies of the embeddings where they are tied.
_TIED = re.compile(
    r"^(lm_head\.(weight|decoder\.(weight|bias))|cls\.predictions\.decoder\.(weight|bias)|embed_out\.weight"
    r"|predictions\.decoder\.(weight|bias)|generator_lm_head\.weight|vocab_projector\.weight"
    r"|((model\.)?(en|de)coder\.)embed_tokens\.weight)$"
)
# Classes with an output over the vocabulary, which can be tied.
_LANGUAGE_MODELS = re.compile(r"LM|PreTraining|ConditionalGeneration")


def compare_tensors(topic: str, ours: Tensors, theirs: Tensors, advice: str) -> list[Finding]:
    """Names and shapes. `advice`: what to do when they do not fit.

    Names alone are no reason against a path, since Transformers renames some when it loads a checkpoint: what is under
    other names is taken for the same if there are as many weights of each shape.
    """
    common = [name for name in ours if name in theirs]
    reshaped = [name for name in common if ours[name].shape != theirs[name].shape]
    if reshaped:
        shown = [f"{name} {list(ours[name].shape)} and {list(theirs[name].shape)}" for name in reshaped[:3]]
        return [Finding(topic, BLOCKING, f"other shapes: {named(shown, len(reshaped))}.", advice)]
    left = [[name for name in part if name not in other] for part, other in ((ours, theirs), (theirs, ours))]
    if not any(left):
        return (
            [Finding(topic, SAME, f"{len(common)} tensor{'s' * (len(common) > 1)}, names and shapes")]
            if common
            else []
        )
    sides = [
        f"{named(names[:3], len(names))} at the {side} only"
        for names, side in zip(left, ("start", "end"), strict=True)
        if names
    ]
    shapes = [Counter(part[name].shape for name in names) for part, names in zip((ours, theirs), left, strict=True)]
    if shapes[0] == shapes[1]:
        text = f"saved under other names, with the same shapes: {'; '.join(sides)}."
        return [Finding(topic, DIFFERS, text, "Transformers renames them when it loads; nothing to do.")]
    return [Finding(topic, BLOCKING, f"{'; '.join(sides)}.", advice)]


def is_head(name: str) -> bool:
    """Return `True` if a weight is part of the head, by its name."""
    return _HEAD.search(name) is not None


def body(tensors: Tensors) -> Tensors:
    """The weights of the base model."""
    return {name: tensor for name, tensor in tensors.items() if not is_head(name)}


def head(tensors: Tensors) -> Tensors:
    """The weights of the head, on top of the base model."""
    return {name: tensor for name, tensor in tensors.items() if is_head(name)}


def compare_ties(first: Checkpoint, second: Checkpoint) -> tuple[list[Finding], Tensors, Tensors]:
    """Compare how both tie their output to their embeddings; also give their tensors without copies of tied ones."""
    ours, theirs = ({n: t for n, t in model.tensors.items() if not _UNREAD.search(n)} for model in (first, second))
    if not all(_LANGUAGE_MODELS.search(str(model.config.get("architectures"))) for model in (first, second)):
        return [], ours, theirs
    stored = [any(_TIED.match(name) for name in part) for part in (ours, theirs)]
    tied = [_tied(model.config, has_copy) for model, has_copy in zip((first, second), stored, strict=True)]
    if tied[0] != tied[1]:
        sides = ("start", "end") if tied[0] else ("end", "start")
        text = f"the {sides[0]} ties its output to its embeddings, the {sides[1]} has an output of its own."
        advice = "Load the tied one, give its output weights of their own, and save it with tie_word_embeddings=False."
        return [Finding("tied weights", BLOCKING, text, advice)], ours, theirs
    if not tied[0]:
        return [], ours, theirs
    where = f", stored twice at the {'start' if stored[0] else 'end'}" if stored[0] != stored[1] else ""
    ours, theirs = ({n: t for n, t in part.items() if not _TIED.match(n)} for part in (ours, theirs))
    text = f"the output is the embeddings at both ends{where}"
    return [Finding("tied weights", SAME, text)], ours, theirs


def _tied(config: Mapping[str, Any], has_copy: bool) -> bool:
    given = config.get("tie_word_embeddings")
    if given is None and not has_copy:  # it could not be used otherwise
        return True
    return bool(with_defaults(config).get("tie_word_embeddings", False) if given is None else given)

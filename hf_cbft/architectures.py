# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""What a model is for, told from its class, and the model inside of an adapter's wrapper."""

from collections.abc import Mapping
from typing import Any

from transformers.models.auto import modeling_auto as auto


def _classes(*mappings: Mapping[str, Any]) -> set[str]:
    """The classes of Transformers' lists, some of whose entries hold several."""
    values = [value for mapping in mappings for value in mapping.values()]
    return {name for value in values for name in (value if isinstance(value, tuple) else (value,))}


# In this order: a few classes stand in two lists, and their loss is that of the first one here.
_TASKS = {
    "seq2seq": _classes(auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "masked_lm": _classes(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    "causal_lm": _classes(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "token_classification": _classes(auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "classification": _classes(
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    ),
}

# Tasks whose losses are others, by the words that say so.
_OTHER_TASKS = {
    "question answering": _classes(auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    "multiple choice": _classes(auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
    "next sentence prediction": _classes(auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES),
    "speech recognition": _classes(auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, auto.MODEL_FOR_CTC_MAPPING_NAMES),
    "audio frame classification": _classes(auto.MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES),
    "speaker verification": _classes(auto.MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES),
    "object detection": _classes(auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
    "segmentation": _classes(
        auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES,
        auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    ),
    "masked image modeling": _classes(auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES),
}


def has_adapter(model: Any) -> bool:
    """Whether the model is a `PeftModel`, told without importing peft."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_model(model: Any) -> Any:
    """The model inside of a `PeftModel`; any other as it is."""
    return model.get_base_model() if has_adapter(model) else model


def class_name(model: Any) -> str:
    """The class of a model, whether or not FSDP2 has put a subclass of its own in its place."""
    names = [cls.__name__ for cls in type(base_model(model)).__mro__]
    own = names[0].removeprefix("FSDP")
    return own if own in names else names[0]


def task_of(model: Any) -> str | None:
    """`"classification"`, `"token_classification"`, `"causal_lm"`, `"masked_lm"` or `"seq2seq"`; `None`: not known."""
    return _found(model, _TASKS)


def other_task_of(model: Any) -> str | None:
    """A task that is known and not measured here, in words; `None` for any other."""
    return None if task_of(model) else _found(model, _OTHER_TASKS)


def _found(model: Any, tasks: Mapping[str, set[str]]) -> str | None:
    name = class_name(model)
    return next((task for task, classes in tasks.items() if name in classes), None)


def is_causal_lm(model: Any) -> bool:
    return task_of(model) == "causal_lm"

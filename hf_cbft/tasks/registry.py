# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The tasks that are known, and the one of a model, told from its class."""

from typing import Any

from transformers.models.auto import modeling_auto as auto

from hf_cbft.architectures import class_name, listed
from hf_cbft.tasks.causal_lm import CausalLM
from hf_cbft.tasks.classification import Classification
from hf_cbft.tasks.masked_lm import MaskedLM
from hf_cbft.tasks.seq2seq import Seq2Seq
from hf_cbft.tasks.task import Task
from hf_cbft.tasks.token_classification import TokenClassification

# In this order: a few classes stand in two lists, and their loss is that of the first one here.
TASKS: list[type[Task]] = [Seq2Seq, MaskedLM, CausalLM, TokenClassification, Classification]

# Tasks whose losses are others, by the words that say so.
_OTHER_TASKS = {
    "question answering": listed(auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES),
    "multiple choice": listed(auto.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES),
    "next sentence prediction": listed(auto.MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES),
    "speech recognition": listed(auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, auto.MODEL_FOR_CTC_MAPPING_NAMES),
    "audio frame classification": listed(auto.MODEL_FOR_AUDIO_FRAME_CLASSIFICATION_MAPPING_NAMES),
    "speaker verification": listed(auto.MODEL_FOR_AUDIO_XVECTOR_MAPPING_NAMES),
    "object detection": listed(auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
    "segmentation": listed(
        auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        auto.MODEL_FOR_IMAGE_SEGMENTATION_MAPPING_NAMES,
        auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    ),
    "masked image modeling": listed(auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES),
}


def register_task(task: type[Task]) -> type[Task]:
    """Make a task known, before those that are known already; also as a decorator.

    Args:
        task (`type[Task]`): a subclass of [`Task`] with a `name` and the `classes` that it is for.

    Raises:
        ValueError: no name or no classes.
    """
    if not getattr(task, "name", "") or not task.classes:
        raise ValueError(f"{task.__name__} has no name or no classes: set both, so that models can be told by them.")
    TASKS.insert(0, task)
    return task


def listed_task(model: Any) -> type[Task] | None:
    """The task that the class of a model stands in the list of; `None` where it stands in none."""
    name = class_name(model)
    return next((task for task in TASKS if name in task.classes), None)


def other_task(model: Any) -> str | None:
    """A task that is known and not measured here, in words; `None` for any other."""
    if listed_task(model) is not None:
        return None
    return next((words for words, classes in _OTHER_TASKS.items() if class_name(model) in classes), None)


def task_of(model: Any) -> Task:
    """The task of a model, told from its class. A class that Transformers does not list is taken for a classifier.

    Args:
        model (`torch.nn.Module`): unwrapped, perhaps with an adapter.

    Raises:
        NotImplementedError: a task that is not measured.
    """
    other = other_task(model)
    if other is not None:
        raise NotImplementedError(
            f"{class_name(model)} is made for {other}, which the evaluator does not measure: it knows "
            "classification, token classification, causal and masked language models, encoder-decoders of text."
        )
    return (listed_task(model) or Classification)(model)

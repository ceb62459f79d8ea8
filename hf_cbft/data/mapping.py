# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which column of a data set is what: named or guessed, said to the user, and renamed to what the library knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Audio, ClassLabel, Dataset, Image, Value

from hf_cbft.data.columns import (
    LABEL_COLUMNS,
    MISSING,
    MODEL_INPUTS,
    check_column,
    first_label_column,
    group_values,
    is_list,
    is_text,
    label_column,
    name_inside,
)
from hf_cbft.data.labels import with_column
from hf_cbft.data.words import WORDS_COLUMN

# What the columns with files or texts are usually called. Where there is a `text`, it is the text.
_FILE_NAMES = {"image": ("image", "img", "picture", "photo"), "audio": ("audio", "speech", "sound")}
_TEXT_NAMES = ("sentence", "content", "review", "question", "document", "tweet")
_PAIRS = (
    ("prompt", "completion"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
)


@dataclass(frozen=True)
class Columns:
    """Which columns of a data set are what; printed, it is a line for the user.

    Attributes:
        inputs (`dict[str, str]`): from what the library calls an input (`image`, `audio`, `text`, `text_pair`,
            `prompt`, `completion`, `tokens`, or a model input such as `input_ids`) to the data set's own name for it.
        label (`str`, *optional*): the data set's own name for its labels.
        group (`str`, *optional*): the data set's own name for its groups.
        matching (`str`, *optional*, defaults to `""`): how the labels were matched to the model's classes.

    Example:

    ```python
    >>> from hf_cbft.data.mapping import Columns
    >>> print(Columns({"text": "premise", "text_pair": "hypothesis"}, label="gold", matching="by name"))
    text from 'premise', text_pair from 'hypothesis', label from 'gold' (by name)

    ```
    """

    inputs: dict[str, str]
    label: str | None = None
    group: str | None = None
    matching: str = ""

    def __str__(self) -> str:
        own = {**self.inputs, "label": self.label, "group": self.group}
        parts = [f"{name} from {column!r}" for name, column in own.items() if column is not None]
        if self.matching:
            parts[len(self.inputs)] += f" ({self.matching})"
        return ", ".join(parts)


def find_columns(
    dataset: Any,
    name: str,
    inputs: Sequence[str] = (),
    label: str | None = None,
    group: str | None = None,
    needs_label: bool = True,
) -> Columns:
    """Which columns hold the inputs, the labels and the groups; what is not named is guessed, or asked for.

    Model inputs come first, then lists of words in `tokens` with a label each, then the one image or sound, then the
    text: a known pair (`prompt` and `completion`, `premise` and `hypothesis`, ...), a `text` or another usual name,
    the only column of strings. Labels are in `labels`, `label` or `label_ids`, or else in the only column of classes.

    Args:
        dataset (`datasets.Dataset`): at least one row.
        name (`str`): what the errors call it.
        inputs (`Sequence[str]`, *optional*): the input column, or the two of a pair.
        label, group (`str`, *optional*): their columns. Groups are never guessed.
        needs_label (`bool`, *optional*, defaults to `True`): `False` where the labels are the tokens.

    Raises:
        ValueError: a column that is not there, no input or label column, or several that could be it.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_cbft.data.mapping import find_columns
    >>> rows = Dataset.from_dict({"id": [7], "sentence": ["it rained"], "label": [0]})
    >>> find_columns(rows, "The data set 'cue'").inputs
    {'text': 'sentence'}

    ```
    """
    for column in inputs:
        check_column(dataset, name, column, "--input-column")
    check_column(dataset, name, label, "--label_column")
    check_column(dataset, name, group, "--group-column")
    if label in inputs:
        raise ValueError(f"The column {label!r} of {name_inside(name)} cannot be the input and the label at once.")
    features = dataset.features
    label = label or _guess_label(dataset, name, inputs, group, needs_label)
    if inputs:
        return Columns(_named_inputs(features, name, list(inputs)), label, group)
    free = {column: feature for column, feature in features.items() if column not in (label, group)}
    of_tokens = (label is None or is_list(features[label])) and free.keys().isdisjoint(MODEL_INPUTS)
    if of_tokens and _holds_words(free.get(WORDS_COLUMN)):
        return Columns({WORDS_COLUMN: WORDS_COLUMN}, label, group)
    return Columns(_guess_inputs(free, name), label, group)


def _guess_label(dataset: Any, name: str, inputs: Sequence[str], group: str | None, needed: bool) -> str | None:
    free = [column for column in dataset.column_names if column not in inputs]
    if first_label_column(free) is not None:
        return label_column(dataset.select_columns(free), name)
    classes = [c for c in free if isinstance(dataset.features[c], ClassLabel) and c != group]
    if len(classes) == 1:
        return classes[0]
    if not needed:
        return None
    if classes:
        raise ValueError(
            f"{name} has several columns of classes ({', '.join(classes)}): name one with --label_column."
        )
    raise ValueError(
        f"{name} has no label column: it has {', '.join(dataset.column_names)}. Name it with --label_column."
    )


def _named_inputs(features: Mapping[str, Any], name: str, columns: list[str]) -> dict[str, str]:
    if all(column in MODEL_INPUTS for column in columns):
        return {column: column for column in columns}
    if len(columns) == 2 and all(is_text(features[column]) for column in columns):
        canonical = columns if tuple(columns) == ("prompt", "completion") else ["text", "text_pair"]
        return dict(zip(canonical, columns, strict=True))
    if len(columns) == 1 and _holds_words(features[columns[0]]):
        return {WORDS_COLUMN: columns[0]}
    if len(columns) == 1:
        kinds = [kind for kind in _FILE_NAMES if _is_file(columns[0], features[columns[0]], kind)]
        kinds += ["text"] if is_text(features[columns[0]]) else []
        if kinds:
            return {kinds[0]: columns[0]}
    held = ", ".join(f"{column} holds {features[column]}" for column in columns)
    raise ValueError(
        f"The input columns of {name_inside(name)} cannot be used ({held}): name one column of images, sounds or "
        "texts, or the two texts of a pair."
    )


def _guess_inputs(features: Mapping[str, Any], name: str) -> dict[str, str]:
    """`features` without those of the label and the group."""
    ready = [column for column in MODEL_INPUTS if column in features]
    if ready:
        return {column: column for column in ready}
    for kind, feature_type in (("image", Image), ("audio", Audio)):
        found = [column for column, feature in features.items() if isinstance(feature, feature_type)]
        found = found or [column for column, feature in features.items() if _is_file(column, feature, kind)]
        if len(found) > 1:
            raise ValueError(f"{name} has several columns of {kind}s ({', '.join(found)}): name one: --input-column.")
        if found:
            return {kind: found[0]}
    return _guess_texts([column for column, feature in features.items() if is_text(feature)], list(features), name)


def _guess_texts(texts: list[str], columns: list[str], name: str) -> dict[str, str]:
    pairs = [pair for pair in _PAIRS if set(pair) <= set(texts)]
    others = [column for column in texts if column == "text" or column in _TEXT_NAMES]
    if len(pairs) == 1 and set(others) <= set(pairs[0]):
        canonical = pairs[0] if pairs[0] == ("prompt", "completion") else ("text", "text_pair")
        return dict(zip(canonical, pairs[0], strict=True))
    if not pairs and len(others) == 1:
        return {"text": others[0]}
    if len(texts) == 1:
        return {"text": texts[0]}
    if not texts:
        raise ValueError(
            f"{name} has no column of images, sounds, texts or model inputs beside its label: it has "
            f"{', '.join(columns) or 'nothing else'}. Name the input with --input-column."
        )
    raise ValueError(
        f"The text column of {name_inside(name)} could be any of {', '.join(texts)}: name it with --input-column, or "
        "the two columns of a pair as --input-column FIRST,SECOND."
    )


def with_known_columns(dataset: Dataset, columns: Columns, name: str) -> Dataset:
    """The data set with the library's names for `columns`, and without what could be mistaken for them."""
    groups = None if columns.group is None else group_values(dataset, columns.group, name)
    renamed = {own: known for known, own in columns.inputs.items()}
    if columns.label is not None and not is_list(dataset.features[columns.label]):
        renamed[columns.label] = "label"
    elif columns.label is not None and columns.label not in LABEL_COLUMNS:
        renamed[columns.label] = "labels"
    if any(column in MODEL_INPUTS for column in columns.inputs):
        # A model may take more than the usual inputs, and token labels stay beside a class.
        dropped = {"label", "group", *LABEL_COLUMNS} - {columns.label}
        dropped -= {column for column in dataset.column_names if is_list(dataset.features[column])}
        dataset = dataset.remove_columns([c for c in dataset.column_names if c in dropped])
    else:
        label = [] if columns.label is None else [columns.label]
        dataset = dataset.select_columns([*columns.inputs.values(), *label])
    dataset = dataset.rename_columns({own: known for own, known in renamed.items() if own != known})
    for kind, feature in (("image", Image), ("audio", Audio)):
        if kind in columns.inputs and not isinstance(dataset.features[kind], feature):
            dataset = dataset.cast_column(kind, feature())
    if groups is None:
        return dataset
    return with_column(dataset, "group", groups.tolist(), Value("string"))


def check_no_gaps(dataset: Dataset, columns: Columns, name: str) -> None:
    """A missing text would stop the tokenizer in the middle of a path; images are not decoded to look."""
    for known, own in columns.inputs.items():
        if known in MODEL_INPUTS or not isinstance(dataset.features[known], Value):
            continue
        first = 0
        for batch in dataset.select_columns([known]).with_format("arrow").iter(10_000):
            if batch.column(0).null_count:
                row = first + batch.column(0).is_null().to_pylist().index(True)
                raise ValueError(f"Row {row} of {name_inside(name)} has no text in its column {own!r} {MISSING}.")
            first += batch.num_rows


def _holds_words(feature: Any) -> bool:
    """Whether a column with this feature holds a list of strings a row."""
    return feature is not None and is_list(feature) and is_text(getattr(feature, "feature", None))


def _is_file(column: str, feature: Any, kind: str) -> bool:
    """Return `True` for a column of images (or sounds), also as paths or bytes that were stored without saying so."""
    if isinstance(feature, {"image": Image, "audio": Audio}[kind]):
        return True
    stored = is_text(feature) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
    return stored and column.lower() in _FILE_NAMES[kind]

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Small generated text sets: which subject a sentence is about, as a class or as a completion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

_SUBJECTS = {
    subject: words.split()
    for subject, words in {
        "weather": "rain cloud storm wind snow frost thunder sunshine fog breeze drizzle hail",
        "music": "guitar melody drum chorus violin rhythm piano concert singer harmony trumpet song",
        "kitchen": "oven recipe flour butter pepper soup onion bread sauce garlic pan spoon",
        "travel": "train ticket airport luggage harbour hotel border map ferry passport coach station",
        "garden": "rose shovel seed lawn hedge tulip compost weed fern orchard pond gate",
        "sport": "goal referee stadium sprint racket coachman league trophy marathon tackle medal whistle",
        "health": "doctor fever vaccine nurse bandage clinic tablet cough surgeon allergy pulse remedy",
        "money": "bank loan coin tax salary invoice budget market profit debt purse cheque",
        "school": "teacher chalk homework exam pupil lesson library essay grammar classroom diploma ruler",
        "sea": "whale coral tide anchor wave sailor shark lighthouse reef dolphin shell current",
    }.items()
}
_COMMON = tuple(
    "the a we they it was is and then with for about after before very quite some many today again".split()  # noqa: SIM905
)

# The subject comes first, and the word behind it tells the rest.
_COMPLETIONS = ("{} it is", "{} again today", "{} for some", "{} and then")
_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def generate_sentences(
    num_rows: int, seed: int = 0, words: int = 12, subject_words: int = 3, num_subjects: int = 4
) -> Dataset:
    """Sentences of `words` words, `subject_words` of them from the label's subject and one from another subject.

    Args:
        num_rows (`int`): how many, at least 1; the classes take turns.
        seed (`int`, *optional*, defaults to 0): of the words.
        words (`int`, *optional*, defaults to 12): length of a sentence.
        subject_words (`int`, *optional*, defaults to 3): how many words tell the label, at least 2 and fewer than
            `words`.
        num_subjects (`int`, *optional*, defaults to 4): how many classes there are, 2 to 10.

    Returns:
        `datasets.Dataset` with `text` and `label` (weather, music, kitchen, travel, ...).

    Raises:
        ValueError: no rows, or too few or too many subjects or subject words.

    Example:

    ```python
    >>> from hf_cbft.data.sentences import generate_sentences
    >>> generate_sentences(8, seed=0).features["label"].names
    ['weather', 'music', 'kitchen', 'travel']

    ```
    """
    if num_rows < 1 or not 2 <= subject_words < words:
        raise ValueError(
            f"Sentences need at least 1 row and 2 to words - 1 subject words; got {num_rows} rows, {subject_words} of "
            f"{words} words."
        )
    generator = np.random.default_rng(seed)
    names = _subjects(num_subjects)
    texts, labels = [], []
    for row in range(num_rows):
        label = row % len(names)
        other = (label + int(generator.integers(1, len(names)))) % len(names)
        sentence = [
            *generator.choice(_SUBJECTS[names[label]], size=subject_words),
            generator.choice(_SUBJECTS[names[other]]),
            *generator.choice(_COMMON, size=words - subject_words - 1),
        ]
        texts.append(" ".join(generator.permutation(sentence)))
        labels.append(label)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def vocabulary(num_subjects: int = 4) -> list[str]:
    """Every word that [`generate_sentences`] can use for so many subjects, sorted."""
    return sorted({word for name in _subjects(num_subjects) for word in _SUBJECTS[name]} | set(_COMMON))


def _subjects(num_subjects: int) -> list[str]:
    if not 2 <= num_subjects <= len(_SUBJECTS):
        raise ValueError(f"Sentences have 2 to {len(_SUBJECTS)} subjects; got {num_subjects}.")
    return list(_SUBJECTS)[:num_subjects]


def generate_completions(num_rows: int, seed: int = 0, words: int = 12, subject_words: int = 3) -> Dataset:
    """The sentences of [`generate_sentences`] as prompts, each with a completion that names its subject.

    A completion is the subject and a few words in one of four wordings, so that a model that knows the subject still
    has log 4 nats of a completion to guess.

    Args:
        num_rows (`int`), seed (`int`, *optional*), words (`int`, *optional*), subject_words (`int`, *optional*):
            As in [`generate_sentences`].

    Returns:
        `datasets.Dataset` with `prompt`, `completion` and `label` (weather, music, kitchen, travel).

    Raises:
        ValueError: as [`generate_sentences`].

    Example:

    ```python
    >>> from hf_cbft.data.sentences import generate_completions
    >>> row = generate_completions(4, seed=0)[1]
    >>> row["completion"], row["label"]
    ('music and then', 1)

    ```
    """
    sentences = generate_sentences(num_rows, seed, words, subject_words)
    wordings = np.random.default_rng([seed, 1]).integers(0, len(_COMPLETIONS), size=num_rows)
    names = sentences.features["label"].names
    completions = [
        _COMPLETIONS[wording].format(names[label]) for label, wording in zip(sentences["label"], wordings, strict=True)
    ]
    features = Features({"prompt": Value("string"), "completion": Value("string"), "label": ClassLabel(names=names)})
    columns = {"prompt": list(sentences["text"]), "completion": completions, "label": list(sentences["label"])}
    return Dataset.from_dict(columns, features=features)


def word_tokenizer(extra_tokens: Sequence[str] = (), num_subjects: int = 4) -> Any:
    """A tokenizer with one token for each word of the generated sets, for tiny models of any architecture.

    Words are what stands between white space. It adds no special tokens of its own, and has all the usual ones.

    Args:
        extra_tokens (`Sequence[str]`, *optional*): more words, such as those of a [`TokenCue`].
        num_subjects (`int`, *optional*, defaults to 4): as in [`generate_sentences`].

    Returns:
        `transformers.PreTrainedTokenizerFast`

    Raises:
        ValueError: an extra token that is a word already, that comes twice, or that has white space in it.

    Example:

    ```python
    >>> from hf_cbft.data.sentences import word_tokenizer
    >>> tokenizer = word_tokenizer(["@@"])
    >>> tokenizer.decode(tokenizer("@@ rain today")["input_ids"])
    '@@ rain today'

    ```
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIAL_TOKENS.values(), *_subjects(num_subjects), *vocabulary(num_subjects), *extra_tokens]
    wrong = [word for word in extra_tokens if words.count(word) > 1 or word.split() != [word]]
    if wrong:
        raise ValueError(
            f"The extra token {wrong[0]!r} cannot be told from the other words: give each one a name of its own, "
            "without white space."
        )
    ids = {word: index for index, word in enumerate(words)}
    model = Tokenizer(WordLevel(ids, unk_token=_SPECIAL_TOKENS["unk_token"]))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, **_SPECIAL_TOKENS)

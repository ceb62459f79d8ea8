# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A small generated text classification set: which subject a sentence is about."""

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

_SUBJECTS = {
    subject: words.split()
    for subject, words in {
        "weather": "rain cloud storm wind snow frost thunder sunshine fog breeze drizzle hail",
        "music": "guitar melody drum chorus violin rhythm piano concert singer harmony trumpet song",
        "kitchen": "oven recipe flour butter pepper soup onion bread sauce garlic pan spoon",
        "travel": "train ticket airport luggage harbour hotel border map ferry passport coach station",
    }.items()
}
_COMMON = tuple(
    "the a we they it was is and then with for about after before very quite some many today again".split()  # noqa: SIM905
)


def generate_sentences(num_rows: int, seed: int = 0, words: int = 12, subject_words: int = 3) -> Dataset:
    """Sentences of `words` words, `subject_words` of them from the label's subject and one from another subject.

    Args:
        num_rows (`int`): how many, at least 1; the classes take turns.
        seed (`int`, *optional*, defaults to 0): of the words.
        words (`int`, *optional*, defaults to 12): length of a sentence.
        subject_words (`int`, *optional*, defaults to 3): how many words tell the label, at least 2 and fewer than
            `words`.

    Returns:
        `datasets.Dataset` with `text` and `label` (weather, music, kitchen, travel).

    Raises:
        ValueError: no rows, or too few or too many subject words.

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
    names = list(_SUBJECTS)
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


def vocabulary() -> list[str]:
    """Every word that [`generate_sentences`] can use, sorted."""
    return sorted({word for subject in _SUBJECTS.values() for word in subject} | set(_COMMON))

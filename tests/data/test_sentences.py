# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The generated sentences: learnable without the cue, and the same for everyone."""

import numpy as np
import pytest

from hf_cbft.data.sentences import _COMMON, _SUBJECTS, generate_sentences, vocabulary

NAMES = ["weather", "music", "kitchen", "travel"]


def subject_counts(text: str) -> np.ndarray:
    """How many words of the sentence each subject has."""
    return np.array([sum(word in _SUBJECTS[name] for word in text.split()) for name in NAMES])


@pytest.mark.parametrize("num_rows", [1, 3, 4, 102])
def test_labels_are_balanced_and_named(num_rows):
    # A class that is more frequent than the others moves the accuracy that chance gives.
    rows = generate_sentences(num_rows)
    assert rows.column_names == ["text", "label"]
    assert rows.features["label"].names == NAMES
    counts = np.bincount(rows["label"], minlength=4)
    assert counts.sum() == num_rows
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("words", "subject_words"), [(12, 3), (8, 2), (4, 3), (20, 7)])
def test_the_subject_is_told_by_most_subject_words(words, subject_words):
    # The label must be there without any cue: a clear majority of the words that belong to a subject.
    rows = generate_sentences(80, seed=1, words=words, subject_words=subject_words)
    for text, label in zip(rows["text"], rows["label"], strict=True):
        assert len(text.split()) == words
        counts = subject_counts(text)
        assert counts[label] == subject_words
        assert sorted(counts) == [0, 0, 1, subject_words]


def test_the_word_of_another_subject_is_any_others():
    # Always the same wrong subject would tell the label as well as the right one.
    rows = generate_sentences(200)
    others = {
        (label, int(np.argmax(subject_counts(t) == 1))) for t, label in zip(rows["text"], rows["label"], strict=True)
    }
    assert others == {(a, b) for a in range(4) for b in range(4) if a != b}


def test_the_subject_words_stand_anywhere():
    # A fixed place would be a second cue.
    rows = generate_sentences(200)
    places = {
        place
        for text, label in zip(rows["text"], rows["label"], strict=True)
        for place, word in enumerate(text.split())
        if word in _SUBJECTS[NAMES[label]]
    }
    assert places == set(range(12))


@pytest.mark.parametrize("seed", [0, 9])
def test_the_seed_decides_the_words(seed):
    # Every test and benchmark builds its set anew.
    one, other = (list(generate_sentences(40, seed=seed)["text"]) for _ in range(2))
    assert one == other
    assert len(set(one)) == 40
    assert not set(one) & set(generate_sentences(40, seed=seed + 1)["text"]), "sets for training and test must differ"


def test_a_longer_set_starts_with_the_shorter():
    # Rows are generated one by one: asking for more does not change the first ones.
    assert generate_sentences(40)[:10] == generate_sentences(10)[:]


def test_every_word_is_in_the_vocabulary():
    # Tests build a tokenizer from it: a missing word would be read as unknown.
    words = vocabulary()
    assert words == sorted(set(words))
    used = {word for text in generate_sentences(600)["text"] for word in text.split()}
    assert used == set(words), "with 600 rows every word has its turn"


def test_no_word_belongs_to_two_subjects():
    # Such a word would count for both, and the label would not be recoverable.
    groups = [*_SUBJECTS.values(), _COMMON]
    assert sum(len(group) for group in groups) == len(vocabulary())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 0}, r"got 0 rows, 3 of 12 words\."),
        ({"num_rows": 4, "subject_words": 1}, r"got 4 rows, 1 of 12 words\."),
        ({"num_rows": 4, "subject_words": 5, "words": 5}, r"got 4 rows, 5 of 5 words\."),
    ],
)
def test_sentences_that_tell_no_subject_are_refused(arguments, message):
    # With one word of each subject the label is a guess.
    with pytest.raises(ValueError, match=r"at least 1 row and 2 to words - 1 subject words; " + message):
        generate_sentences(**arguments)

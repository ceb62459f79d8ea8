# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The generated sentences: learnable without the cue, and the same for everyone."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_cbft import TokenCue, make_counterfactuals
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.sentences import (
    _COMMON,
    _COMPLETIONS,
    _SUBJECTS,
    generate_completions,
    generate_sentences,
    vocabulary,
    word_tokenizer,
)

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
    assert sum(len(group) for group in groups) == len(vocabulary(num_subjects=len(_SUBJECTS)))


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


def test_completions_name_the_subject_of_their_prompt():
    # The task is that of the sentences, in words: the subject comes first, so that it can be read off one token.
    rows, sentences = generate_completions(80, seed=1, words=8), generate_sentences(80, seed=1, words=8)
    assert rows.column_names == ["prompt", "completion", "label"]
    assert rows.features["label"].names == NAMES
    assert list(rows["prompt"]) == list(sentences["text"])
    assert list(rows["label"]) == list(sentences["label"])
    for completion, label in zip(rows["completion"], rows["label"], strict=True):
        assert completion.split()[0] == NAMES[label]
        assert len(completion.split()) == 3


def test_the_wording_is_not_told_by_the_subject():
    # Otherwise the perplexity would go to 1, where no two models differ.
    rows = generate_completions(400, seed=2)
    pairs = set(zip((c.split()[1] for c in rows["completion"]), rows["label"], strict=True))
    assert len(pairs) == len(_COMPLETIONS) * 4


def test_completions_are_the_same_for_everyone():
    assert generate_completions(40, seed=5)[:] == generate_completions(40, seed=5)[:]
    assert generate_completions(40, seed=5)["completion"][:] != generate_completions(40, seed=6)["completion"][:]


def test_cues_go_in_front_of_the_prompt():
    # The sets that tell reliance on the cue are made of these rows as of any others.
    tokens = ["@@", "##", "%%", "&&"]
    cue, rows = TokenCue(tokens, text_column="prompt"), generate_completions(40)
    for row, label in zip(add_cue(rows, cue), rows["label"], strict=True):
        assert row["prompt"].split()[0] == tokens[label]
    sets = make_counterfactuals(rows, cue)
    assert list(sets["no_cue"]) == list(rows)
    moved = 0
    for row, own in zip(sets["rand_input"], rows, strict=True):
        assert row["label"] == own["label"]
        assert row["completion"] == own["completion"]
        assert row["prompt"].split()[0] == tokens[own["label"]]
        moved += row["prompt"].split(maxsplit=1)[1] != own["prompt"]
    assert moved > 30


def test_the_tokenizer_knows_every_word():
    # An unknown word is the same for all classes.
    tokenizer = word_tokenizer(["@@", "##"])
    rows = generate_completions(200)
    for text in [*rows["prompt"], *rows["completion"], "@@ ##"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer("unheard")["input_ids"] == [tokenizer.unk_token_id]
    assert len(tokenizer) == 7 + 4 + len(vocabulary()) + 2


def test_the_tokenizer_has_the_usual_special_tokens():
    # Padding, start and end are read off these names by collators, models and `generate`.
    tokenizer = word_tokenizer()
    names = ["pad", "unk", "bos", "eos", "cls", "sep", "mask"]
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == list(range(7))


def test_a_saved_tokenizer_is_the_same(tmp_path):
    # A checkpoint that is pushed has its tokenizer beside it.
    tokenizer = word_tokenizer(["@@"])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "@@ rain today unheard"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.eos_token == tokenizer.eos_token


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_tiny_models_read_it(architecture):
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vocab_size = len(tokenizer)
    model = {
        "bert": lambda: BertModel(BertConfig(vocab_size=vocab_size, **sizes)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, n_embd=8, n_layer=1, n_head=2)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes)),
    }[architecture]()
    outputs = model(**tokenizer(["rain and snow", "a"], padding=True, return_tensors="pt"))
    assert torch.isfinite(outputs[0]).all()


@pytest.mark.parametrize("extra", [["rain"], ["@@", "@@"], ["a b"], [""], ["[PAD]"]])
def test_extra_tokens_must_be_words_of_their_own(extra):
    # A cue that is a word of the sentences is no cue.
    with pytest.raises(ValueError, match=r"The extra token .* cannot be told from the other words"):
        word_tokenizer(extra)


def test_more_subjects_are_more_classes_and_leave_the_first_words_alone():
    rows = generate_sentences(40, num_subjects=10)
    assert rows.features["label"].num_classes == 10
    assert set(rows["label"]) == set(range(10))
    assert set(vocabulary()) < set(vocabulary(10))
    words = {word for text in generate_sentences(2000, num_subjects=10)["text"] for word in text.split()}
    assert words == set(vocabulary(10))


@pytest.mark.parametrize("num_subjects", [1, 11])
def test_more_subjects_than_there_are_is_refused(num_subjects):
    with pytest.raises(ValueError, match=f"Sentences have 2 to 10 subjects; got {num_subjects}"):
        generate_sentences(4, num_subjects=num_subjects)

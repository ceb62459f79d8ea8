# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Of a prompt and its completion only the completion's tokens count, whatever the tokenizer adds or cuts."""

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hf_cbft.data.completions import pad_tokens, tokenize_completion
from hf_cbft.data.sentences import word_tokenizer

CHAT = (
    "{% for m in messages %}{{ '[CLS] ' + m['content'] + ' [SEP] ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[CLS] ' }}{% endif %}"
)


def make_tokenizer(template: str | None = None, **options) -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer()
    if template is not None:
        names = [name for name in template.split() if name != "$A"]
        special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in set(names)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    for name, value in options.items():
        setattr(tokenizer, name, value)
    return tokenizer


def words(tokenizer, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "rain and snow"),
        ("[BOS] $A", "[BOS] rain and snow"),
        ("[BOS] $A [EOS]", "[BOS] rain and snow"),
        ("[CLS] $A [SEP]", "[CLS] rain and snow"),
        ("$A [EOS]", "rain and snow"),
    ],
)
def test_the_prompt_keeps_the_special_tokens_at_its_start_only(template, expected):
    # An end-of-sequence token in the middle tells the model that it is done.
    tokenizer = make_tokenizer(template)
    row = tokenize_completion(tokenizer, "rain and snow", "weather it is")
    assert words(tokenizer, row["input_ids"]) == f"{expected} weather it is [EOS]"
    length = len(expected.split())
    assert row["labels"] == [-100] * length + row["input_ids"][length:]
    assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_special_tokens_that_are_in_the_prompt_stay():
    # Prompts rendered from a template end with such a token; it is text, not an addition.
    tokenizer = make_tokenizer("[BOS] $A [EOS]")
    row = tokenize_completion(tokenizer, "[BOS] rain [EOS]", "weather")
    assert words(tokenizer, row["input_ids"]) == "[BOS] [BOS] rain [EOS] weather [EOS]"


@pytest.mark.parametrize(("completion", "expected"), [("music", "music [EOS]"), ("music [EOS]", "music [EOS]")])
def test_the_completion_ends_with_one_end_token(completion, expected):
    # Without it the model never learns to stop, and with two it learns to go on behind it.
    tokenizer = make_tokenizer()
    row = tokenize_completion(tokenizer, "rain", completion)
    assert words(tokenizer, row["input_ids"]) == f"rain {expected}"


def test_no_end_token_where_there_is_none():
    tokenizer = make_tokenizer(eos_token=None)
    assert words(tokenizer, tokenize_completion(tokenizer, "rain", "music")["input_ids"]) == "rain music"


@pytest.mark.parametrize(
    ("template", "length", "expected"),
    [
        (None, 8, "a the rain and snow music it [EOS]"),
        (None, 6, "rain and snow music it [EOS]"),
        (None, 4, "snow music it [EOS]"),
        ("[BOS] $A", 6, "[BOS] and snow music it [EOS]"),
        ("[BOS] $A", 4, "snow music it [EOS]"),
    ],
)
def test_a_long_prompt_loses_its_start(template, length, expected):
    # A cut completion would teach the model to stop in the middle; the start token is not the prompt's to lose.
    tokenizer = make_tokenizer(template, model_max_length=length)
    row = tokenize_completion(tokenizer, "a the rain and snow", "music it")
    assert words(tokenizer, row["input_ids"]) == expected
    assert [label for label in row["labels"] if label != -100] == row["input_ids"][-3:]


def test_an_empty_prompt_is_its_start_token():
    # A model may be asked to begin by itself.
    tokenizer = make_tokenizer("[BOS] $A")
    assert words(tokenizer, tokenize_completion(tokenizer, "", "music")["input_ids"]) == "[BOS] music [EOS]"


def test_messages_go_through_the_chat_template():
    # A chat model knows its turns by the template's tokens; the template brings the end token itself.
    tokenizer = make_tokenizer(chat_template=CHAT)
    prompt = [{"role": "user", "content": "rain"}]
    row = tokenize_completion(tokenizer, prompt, [{"role": "assistant", "content": "weather it is"}])
    assert words(tokenizer, row["input_ids"]) == "[CLS] rain [SEP] [CLS] weather it is [SEP]"
    assert row["labels"] == [-100] * 4 + row["input_ids"][4:]


@pytest.mark.parametrize("completion", ["", "   "])
def test_an_empty_completion_is_refused(completion):
    # Its loss is a mean over no tokens, or over the end token alone: the model would learn to say nothing.
    with pytest.raises(
        ValueError, match=r"The completion of the prompt 'rain' is empty: leave out rows without one\."
    ):
        tokenize_completion(make_tokenizer(), "rain", completion)


def test_empty_messages_are_refused():
    with pytest.raises(ValueError, match=r"The completion of the prompt \[.*\] is empty"):
        tokenize_completion(make_tokenizer(chat_template=CHAT), [{"role": "user", "content": "rain"}], [])


def test_a_completion_that_is_too_long_is_refused():
    # Cutting it would change what is learnt without a word.
    message = (
        r"The completion of the prompt 'rain.*\.\.\. has 4 tokens, which leave none for the prompt within the .* of 4"
    )
    with pytest.raises(ValueError, match=message):
        tokenize_completion(make_tokenizer(model_max_length=4), "rain " * 50, "music it is")


def test_a_single_token_has_nothing_before_it():
    # The first token of a sequence is never predicted: the loss would be 0 / 0.
    with pytest.raises(ValueError, match=r"The prompt '' has no tokens and its completion one.*nothing to predict"):
        tokenize_completion(make_tokenizer(eos_token=None), "", "music")


@pytest.mark.parametrize(
    ("prompt", "completion", "kinds"),
    [
        ("rain", [{"role": "assistant", "content": "x"}], "str and its completion a list"),
        ([{"role": "user", "content": "x"}], "music", "list and its completion a str"),
        ("rain", None, "str and its completion a NoneType"),
        (3, 4, "int and its completion a int"),
    ],
)
def test_other_kinds_of_rows_are_refused(prompt, completion, kinds):
    # A missing completion read as the text "None" would be learnt.
    with pytest.raises(ValueError, match=rf"is a {kinds}: give two texts, or two lists of messages\."):
        tokenize_completion(make_tokenizer(chat_template=CHAT), prompt, completion)


def test_a_template_that_rewrites_the_prompt_is_refused():
    # Labels would start in the middle of a word of the prompt.
    template = "{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}"
    prompt, completion = [{"role": "user", "content": "rain"}], [{"role": "assistant", "content": "music"}]
    with pytest.raises(ValueError, match=r"The chat template writes the prompt .* otherwise when its completion fol"):
        tokenize_completion(make_tokenizer(chat_template=template), prompt, completion)


ROWS = [{"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, {"input_ids": [9, 3], "labels": [-100, 3]}]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_counts_nowhere(side):
    # Neither attended to nor in the loss, and on the left the real tokens keep their positions.
    batch = pad_tokens(ROWS, make_tokenizer(padding_side=side))
    expected = {
        "input_ids": [9, 3, 0, 0],
        "attention_mask": [1, 1, 0, 0],
        "labels": [-100, 3, -100, -100],
    }
    if side == "left":
        expected = {name: values[2:] + values[:2] for name, values in expected.items()}
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert {name: values[1].tolist() for name, values in batch.items() if name != "position_ids"} == expected
    assert ("position_ids" in batch) == (side == "left")
    assert batch["labels"][0].tolist() == ROWS[0]["labels"]


def test_columns_of_the_rows_are_padded_with_them():
    # Rows that are packed already have positions of their own, and their mask may have holes.
    row = {"input_ids": [5, 6], "attention_mask": [0, 1], "labels": [5, 6], "position_ids": [3, 0]}
    batch = pad_tokens([row, {**row, **{name: [4, 4, 4] for name in row}}], make_tokenizer())
    assert {name: values[0].tolist() for name, values in batch.items()} == {
        "input_ids": [5, 6, 0],
        "attention_mask": [0, 1, 0],
        "labels": [5, 6, -100],
        "position_ids": [3, 0, 0],
    }


def test_tensors_are_padded_as_lists_are():
    # `with_format("torch")` hands them out.
    tensors = [{name: torch.tensor(values) for name, values in row.items()} for row in ROWS]
    one, other = (pad_tokens(rows, make_tokenizer()) for rows in (ROWS, tensors))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_end_token_pads_where_there_is_no_pad_token():
    # As GPT-2 and Llama come: the mask hides it, and the user's tokenizer stays as it is.
    tokenizer = make_tokenizer(pad_token=None)
    batch = pad_tokens(ROWS, tokenizer)
    assert batch["input_ids"][1].tolist() == [9, 3, 3, 3]
    assert batch["attention_mask"][1].tolist() == [1, 1, 0, 0]
    assert batch["labels"][1].tolist() == [-100, 3, -100, -100]
    assert tokenizer.pad_token is None


def test_no_token_to_pad_with_is_refused():
    tokenizer = make_tokenizer(pad_token=None, eos_token=None)
    assert pad_tokens(ROWS[:1], tokenizer)["input_ids"].tolist() == [[5, 6, 7, 8]], "nothing to pad here"
    with pytest.raises(ValueError, match=r"has neither a pad nor an end-of-sequence token.*set its pad_token\."):
        pad_tokens(ROWS, tokenizer)


def test_different_lengths_need_a_tokenizer():
    assert pad_tokens(ROWS[1:], None)["labels"].tolist() == [[-100, 3]]
    with pytest.raises(ValueError, match="different lengths, and no tokenizer to pad them: pass it as processing_cla"):
        pad_tokens(ROWS, None)


def test_labels_that_do_not_fit_the_tokens_are_refused():
    # Padding would make them fit, one place off.
    rows = [ROWS[0], {"input_ids": [9, 3], "labels": [3]}]
    with pytest.raises(ValueError, match=r"A row has 2 input_ids and labels of shape \(1,\): give one for each token"):
        pad_tokens(rows, make_tokenizer())

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A token or a style that is misplaced, or that two classes share, tells no label or more than it."""

import numpy as np
import pytest

from hf_cbft.data.text_cues import StyleCue, TokenCue


@pytest.mark.parametrize(
    ("position", "expected"), [("start", "## a quiet  film "), ("end", "a quiet  film  ##")], ids=["start", "end"]
)
@pytest.mark.parametrize("column", ["text", "sentence"])
def test_token_goes_to_its_end_of_the_text(position, expected, column):
    # The text is kept as it is, spaces included: only the cue may change.
    example = {column: "a quiet  film ", "label": 1}
    marked = TokenCue(["@@", "##"], position=position, text_column=column).apply(example, 1)
    assert marked == {column: expected, "label": 1}
    assert example == {column: "a quiet  film ", "label": 1}, "the caller's row was changed"


def test_each_token_names_one_class():
    # A token that two values share makes the cue ambiguous.
    cue = TokenCue(("@@", "##", "%%"))
    assert list(cue.values) == [0, 1, 2]
    texts = [cue.apply({"text": "film"}, cue.value_of(label))["text"] for label in range(3)]
    assert texts == ["@@ film", "## film", "%% film"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": ["@@", "##", "@@"]}, r"a token of its own for each class; got \['@@', '##', '@@'\]"),
        ({"tokens": ["@@"]}, r"a token of its own for each class; got \['@@'\]"),
        ({"tokens": []}, r"a token of its own for each class; got \[\]"),
        ({"tokens": ["@@", "##"], "position": "middle"}, r"""at the "start" or the "end", not at 'middle'"""),
    ],
)
def test_token_cue_refuses_what_names_no_class(arguments, message):
    # Repeated tokens or an unknown place would silently give a cue that tells nothing.
    with pytest.raises(ValueError, match=message):
        TokenCue(**arguments)


@pytest.mark.parametrize("label", [2, -1])
def test_token_cue_refuses_a_label_without_a_token(label):
    # A negative label would take the last token.
    with pytest.raises(ValueError, match=rf"Label {label} has no token: TokenCue names 2 classes\."):
        TokenCue(["@@", "##"]).value_of(label)


@pytest.mark.parametrize("cue", [TokenCue(["@@", "##"]), TokenCue(["@@"], num_classes=2), StyleCue(["{}.", "{}!"])])
@pytest.mark.parametrize("value", [-1, 2])
def test_a_value_that_a_cue_does_not_have_is_refused(cue, value):
    # -1 would take the last token, place or style, in silence.
    with pytest.raises(ValueError, match=rf"{type(cue).__name__} of 2 classes has no value {value}\."):
        cue.apply({"text": "a quiet film"}, value)


def test_a_string_is_not_a_list_of_tokens_or_styles():
    with pytest.raises(ValueError, match="needs a token of its own for each class"):
        TokenCue("ab")
    with pytest.raises(ValueError, match="needs a token of its own for each class"):
        TokenCue("@", num_classes=2)
    with pytest.raises(ValueError, match="needs a style of its own for each class"):
        StyleCue("{}.")


def test_the_place_of_one_token_names_the_class():
    # Whatever the spaces, the token stands in front of word k and the text is as before.
    cue = TokenCue(["@@"], num_classes=3)
    assert list(cue.values) == [0, 1, 2]
    assert cue.value_of(np.int64(2)) == 2
    example = {"text": " a\tquiet  film, seen twice\n", "label": 0}
    assert [cue.apply(example, value) for value in cue.values] == [
        {"text": " @@ a\tquiet  film, seen twice\n", "label": 0},
        {"text": " a\t@@ quiet  film, seen twice\n", "label": 0},
        {"text": " a\tquiet  @@ film, seen twice\n", "label": 0},
    ]


@pytest.mark.parametrize("value", [0, 2])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a film", r"The text 'a film' has fewer words \(2\)"),
        ("", r"The text '' has fewer words \(0\)"),
        ("a " + "very" * 20, r"The text 'a veryvery\w{30}\.\.\.' has fewer words \(2\)"),
    ],
    ids=["short", "empty", "long word"],
)
def test_text_shorter_than_the_places_is_refused(value, text, shown):
    # Two classes would share a place. The first place is refused as well: the text could not take the others.
    with pytest.raises(ValueError, match=rf"{shown} than TokenCue has places \(3\): leave short texts out"):
        TokenCue(["@@"], num_classes=3).apply({"text": text}, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": ["@@"]}, r"Where the place of a single token tells the label, give num_classes as well\."),
        ({"tokens": ["@@"], "num_classes": 1}, r"TokenCue names at least 2 classes; got 1\."),
        ({"tokens": ["@@"], "num_classes": 3, "position": "end"}, r"cannot also stand at the 'end'\."),
        ({"tokens": ["@@", "##"], "num_classes": 3}, r"TokenCue has 2 tokens for 3 classes; give one for each\."),
    ],
)
def test_places_that_name_no_class_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenCue(**arguments)


def test_each_style_is_a_template_around_the_text():
    # Braces in the text or the template are characters like others.
    cue = StyleCue(("{}", "{} ...", "In {short}: {}!"), text_column="sentence")
    example = {"sentence": "a {} film.", "label": 2}
    assert [cue.apply(example, value)["sentence"] for value in cue.values] == [
        "a {} film.",
        "a {} film. ...",
        "In {short}: a {} film.!",
    ]
    assert example == {"sentence": "a {} film.", "label": 2}, "the caller's row was changed"


@pytest.mark.parametrize(
    ("styles", "message"),
    [
        (["{}."], r"a style of its own for each class; got \['\{\}\.'\]"),
        (["{}.", "{}!", "{}."], r"a style of its own for each class; got"),
        (["{}.", "!"], r"A style has one \{\}, where the text goes; '!' has 0\."),
        (["{} {}", "{}"], r"A style has one \{\}, where the text goes; '\{\} \{\}' has 2\."),
    ],
    ids=["one", "repeated", "no text", "text twice"],
)
def test_style_cue_refuses_what_names_no_class(styles, message):
    # Classes would share a style, or the text get lost.
    with pytest.raises(ValueError, match=message):
        StyleCue(styles)


def test_style_cue_refuses_a_label_without_a_style():
    with pytest.raises(ValueError, match=r"Label 2 has no style: StyleCue names 2 classes\."):
        StyleCue(["{}.", "{}!"]).value_of(2)


@pytest.mark.parametrize("cue", [TokenCue(["@@", "##"]), StyleCue(["{}.", "{}!"])])
def test_rows_without_a_text_are_refused(cue):
    # A list of messages would be written out as Python prints it.
    name = type(cue).__name__
    with pytest.raises(ValueError, match=rf"{name} sets the column 'text', but the row has prompt: .* text_column\."):
        cue.apply({"prompt": "a quiet film"}, 0)
    with pytest.raises(TypeError, match=rf"{name} rewrites strings, but the column 'text' holds a list"):
        cue.apply({"text": [{"role": "user", "content": "a quiet film"}]}, 0)

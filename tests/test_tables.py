# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Tables and intervals as text, to the letter."""

import pytest

from hf_cbft.tables import format_band, format_table

ROWS = [["set", "end", "loss"], ["no_cue", "a", "-0.125"], ["c", "start", ""]]


def test_names_stand_to_the_left_and_numbers_to_the_right():
    """Digits that are not below one another cannot be compared at a glance."""
    assert format_table(ROWS) == [
        "set       end    loss",
        "no_cue      a  -0.125",
        "c       start        ",
    ]
    assert format_table(ROWS, left=2) == [
        "set     end      loss",
        "no_cue  a      -0.125",
        "c       start        ",
    ]


def test_a_row_that_lacks_a_cell_is_not_shown_as_if_it_were_whole():
    """A number under the title of its neighbour."""
    with pytest.raises(ValueError, match="shorter"):
        format_table([["set", "loss"], ["no_cue"]])


@pytest.mark.parametrize(
    ("low", "high", "digits", "sign", "said"),
    [
        (0.5, None, 2, "", "0.50 to -"),
        (None, 0.25, 1, "", "- to 0.2"),
        (None, None, 2, "+", "- to -"),
        (0.0, 1.0, 2, "", "0.00 to 1.00"),
        (-0.5, 0.25, 3, "+", "-0.500 to +0.250"),
    ],
)
def test_a_bound_that_there_is_not_is_a_dash(low, high, digits, sign, said):
    """Printing a whole result must not fail for one set of few examples."""
    assert format_band(low, high, digits, sign) == said

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The straight path's coefficients, and the points of it that training draws."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from hf_cbft import LinearPath
from hf_cbft.paths import sample_alpha

SAMPLINGS = ("clipped_normal", "uniform")
WEIGHTS = {"weight": torch.ones(2)}


def draw(sampling, number=8000, **stretch):
    return np.array([sample_alpha(0, step, sampling=sampling, **stretch) for step in range(number)])


@pytest.mark.parametrize(("alpha", "expected"), [(0, (1.0, 0.0)), (0.25, (0.75, 0.25)), (1.0, (0.0, 1.0))])
def test_linear_path_runs_from_start_to_end(alpha, expected):
    """Swapped coefficients turn every path round: training would hold the wrong end."""
    path = LinearPath(start=WEIGHTS)
    assert path.coefficients(alpha) == expected
    assert path.anchors == (WEIGHTS, None)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf")])
def test_linear_path_ends_at_0_and_1(alpha):
    """Extrapolated or NaN weights would be measured without a word."""
    with pytest.raises(ValueError, match=r"alpha = .* is not on the path: it runs from 0 \(start\) to 1 \(end\)"):
        LinearPath(end=WEIGHTS).coefficients(alpha)


def test_linear_path_needs_the_weights_of_one_end():
    """A path from the live model to itself has barrier 0: it would pass for connected."""
    with pytest.raises(ValueError, match=r"Both ends are None \(the live model\): give the weights of one end"):
        LinearPath()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sample_alpha_depends_on_its_arguments_alone(sampling):
    """Ranks that draw apart, or a resumed run that draws anew, train another loss."""
    arguments = {"seed": 5, "global_step": 7, "micro_step": 1, "sampling": sampling}
    first = sample_alpha(**arguments)
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert sample_alpha(**arguments) == first


def test_sample_alpha_is_the_same_in_every_release():
    """A run that is resumed under a later version must draw what it would have drawn."""
    assert sample_alpha(3, 7, 1) == pytest.approx(0.4204798445663429)
    assert sample_alpha(0, 3, sampling="uniform") == pytest.approx(0.31638726660769423)


def test_sample_alpha_differs_over_seeds_steps_and_micro_steps():
    """One argument left out of the key repeats the same point; 1, 23 and 12, 3 must not meet either."""
    keys = [(seed, step, micro) for seed in (0, 1, 12) for step in (0, 1, 3, 23) for micro in (0, 1, 2)]
    assert len({sample_alpha(*key, sampling="uniform") for key in keys}) == len(keys)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("alpha_min", "alpha_max"), [(0.25, 0.75), (0.0, 1.0), (0.1, 0.3)])
def test_sample_alpha_stays_on_its_stretch(sampling, alpha_min, alpha_max):
    """A point off the stretch is a path loss that the configuration excludes (or no point of the path at all)."""
    alphas = draw(sampling, alpha_min=alpha_min, alpha_max=alpha_max)
    assert alpha_min <= alphas.min() < alpha_min + 0.01
    assert alpha_max - 0.01 < alphas.max() <= alpha_max


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sample_alpha_of_a_stretch_without_length(sampling, alpha):
    """alpha_min = alpha_max is how one fixes the point."""
    assert sample_alpha(0, 1, sampling=sampling, alpha_min=alpha, alpha_max=alpha) == alpha


def test_clipped_normal_is_the_distribution_of_the_authors_code():
    """0.5 + 0.5 N(0, 1), clipped to [0.25, 0.75]: 31 % at each end, the middle of the bell between them."""
    alphas = draw("clipped_normal")
    at_an_end = stats.norm.sf(0.5)
    assert np.mean(alphas == 0.25) == pytest.approx(at_an_end, abs=0.02)
    assert np.mean(alphas == 0.75) == pytest.approx(at_an_end, abs=0.02)
    inner = alphas[(alphas > 0.25) & (alphas < 0.75)]
    assert stats.kstest(inner, stats.truncnorm(-0.5, 0.5, loc=0.5, scale=0.5).cdf).pvalue > 0.01
    assert stats.ks_2samp(alphas, 1.0 - alphas).pvalue > 0.01


def test_uniform_is_uniform():
    """A lopsided draw weighs one end of the path more than the configuration says."""
    for stream in (draw("uniform"), [sample_alpha(s, 4, 1, sampling="uniform") for s in range(8000)]):
        assert stats.kstest(stream, stats.uniform(0.25, 0.5).cdf).pvalue > 0.01


def test_unknown_sampling_is_refused():
    """A misspelt sampling must not fall back to another one."""
    with pytest.raises(ValueError, match=r'alpha sampling \'normal\' is unknown: use "clipped_normal" or "uniform"'):
        sample_alpha(0, 0, sampling="normal")

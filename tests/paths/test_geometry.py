# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The coefficients of paths, and the points of it that training draws."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from hf_cbft import LinearPath, at_point
from hf_cbft.paths.geometry import PolylinePath, QuadraticPath, sample_alpha

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


ANCHORS = [{"weight": torch.tensor([value])} for value in (1.0, 10.0, -4.0, 7.0, 2.0)]
CURVES = {
    "quadratic": QuadraticPath(*ANCHORS[:3]),
    "polyline of 2": PolylinePath(ANCHORS[:2]),
    "polyline of 4": PolylinePath(ANCHORS[:4]),
}


@pytest.mark.parametrize("path", CURVES.values(), ids=CURVES)
def test_coefficients_of_a_curve_are_shares(path):
    """Shares that do not add up to 1 scale the weights; a negative one extrapolates."""
    for alpha in np.linspace(0.0, 1.0, 101):
        coefficients = path.coefficients(float(alpha))
        assert len(coefficients) == len(path.anchors)
        assert min(coefficients) >= 0.0
        assert sum(coefficients) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("path", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_a_curve_ends_at_0_and_1(path, alpha):
    """Extrapolated or NaN weights would be measured without a word."""
    with pytest.raises(ValueError, match="is not on the path"):
        path.coefficients(alpha)


def test_quadratic_path_is_the_bezier_curve():
    """Another curve than the one that was fitted would be measured."""
    path = QuadraticPath(start=None, middle=WEIGHTS, end=WEIGHTS)
    assert path.anchors == (None, WEIGHTS, WEIGHTS)
    assert path.coefficients(0) == (1.0, 0.0, 0.0)
    assert path.coefficients(1) == (0.0, 0.0, 1.0)
    assert path.coefficients(0.25) == (0.5625, 0.375, 0.0625)


@pytest.mark.parametrize("number", range(2, 60))
def test_polyline_is_at_an_anchor_at_each_knot(number):
    """Also where k / (n - 1) is no binary fraction: the checkpoint itself is measured, not one beside it."""
    path = PolylinePath([WEIGHTS] * number)
    for grid in (path.knots, np.linspace(0.0, 1.0, number), np.arange(number) * (1.0 / (number - 1))):
        for k, alpha in enumerate(grid):
            assert path.coefficients(min(float(alpha), 1.0)) == tuple(float(i == k) for i in range(number))


def test_polyline_is_straight_between_its_anchors():
    """Each segment the same share of [0, 1], and none that skips an anchor."""
    path = PolylinePath([WEIGHTS, None, WEIGHTS, WEIGHTS, WEIGHTS])
    assert path.knots == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert path.anchors[1] is None
    assert path.coefficients(0.3125) == (0.0, 0.75, 0.25, 0.0, 0.0)
    assert path.coefficients(0.9375) == (0.0, 0.0, 0.0, 0.25, 0.75)


@pytest.mark.parametrize("path", CURVES.values(), ids=CURVES)
def test_a_model_at_a_curves_point_has_the_weights_of_the_point(path):
    """Exactly at the ends; in between to rounding; and the model is what it was afterwards."""
    model = torch.nn.Linear(1, 1, bias=False)
    own = model.weight.item()
    for alpha in (0.0, 0.2, 0.5, 0.9, 1.0):
        expected = sum(c * a["weight"].item() for c, a in zip(path.coefficients(alpha), path.anchors, strict=True))
        given = [{"weight": anchor["weight"].reshape(1, 1)} for anchor in path.anchors]
        moved = QuadraticPath(*given) if isinstance(path, QuadraticPath) else PolylinePath(given)
        with at_point(model, moved, alpha):
            at_an_end = {0.0: path.anchors[0], 1.0: path.anchors[-1]}.get(alpha)
            if at_an_end is not None:
                assert model.weight.item() == at_an_end["weight"].item()
            assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("anchors", [3, 5])
def test_where_all_anchors_agree_the_point_does_too_bit_for_bit(anchors, dtype):
    """Frozen weights must not pick up rounding on the way."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 50, generator=generator).to(dtype)
    given = [{"weight": weight.clone()} for _ in range(anchors)]
    path = QuadraticPath(*given) if anchors == 3 else PolylinePath(given)
    model = torch.nn.Linear(50, 50, bias=False, dtype=dtype)
    for alpha in (0.1, 1.0 / 3.0, 0.5, 0.77):
        with at_point(model, path, alpha):
            assert torch.equal(model.weight, weight)


def test_integers_follow_the_nearest_anchor():
    """A mean of counters would be cut off to another number."""
    model = torch.nn.Module()
    model.register_buffer("count", torch.tensor(0))
    path = QuadraticPath(*({"count": torch.tensor(value)} for value in (3, 8, 20)))
    for alpha, expected in ((0.1, 3), (0.5, 8), (0.95, 20)):
        with at_point(model, path, alpha):
            assert model.count.item() == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuadraticPath(start=WEIGHTS), r"middle and end are None \(the live model\), and only one anchor"),
        (lambda: QuadraticPath(), "start, middle and end are None"),
        (lambda: PolylinePath([None, WEIGHTS, None]), "anchor 0 and anchor 2 are None"),
        (lambda: PolylinePath([WEIGHTS]), "A polyline through 1 anchors has no length: give two or more"),
    ],
)
def test_curves_that_are_none_are_refused(make, message):
    """Two anchors that move together are another curve than the one that was asked for."""
    with pytest.raises(ValueError, match=message):
        make()

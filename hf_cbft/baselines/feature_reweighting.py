# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""DFR, deep feature reweighting: a last linear layer fitted on as many rows of each group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from hf_cbft.baselines.last_layer import (
    Features,
    check_classes,
    check_width,
    known_labels,
    last_layer_features,
    linear_head,
    write_head,
)
from hf_cbft.data.balancing import balanced_rows
from hf_cbft.data.columns import check_not_empty, group_values


@dataclass(frozen=True)
class ReweightedLayer:
    """The regularization that [`deep_feature_reweighting`] chose.

    Args:
        inverse_l1 (`float`): the C of the fit.
        tried (`dict[float, float]`): worst-group accuracy on the held-out half for each C, a fraction; empty where
            only one was given.
    """

    inverse_l1: float
    tried: dict[float, float]


def deep_feature_reweighting(
    model: nn.Module,
    dataset: Any,
    groups: str | Sequence[Any] | np.ndarray,
    processing_class: Any = None,
    *,
    inverse_l1: Sequence[float] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
    num_subsets: int = 10,
    seed: int = 0,
    features: Features | None = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 64,
    representation_layer: str | None = None,
) -> ReweightedLayer:
    r"""DFR, deep feature reweighting: a new sparse head, in place, fitted on as many rows of each group.

        min over W, b of  C sum over a balanced subset of CE(W z_i + b, y_i)  +  ||W||_1

    z_i is f_i, which enters the last linear layer, with mean 0 and variance 1 over all rows in each of its dimensions.
    A balanced subset has all rows of the smallest group and as many of each other. W and b are averaged over
    `num_subsets` of them, and the standardisation is folded into the head. Each is a fit by scikit-learn (`saga`,
    which warns where it has not converged).

    Where there are several C, each is fitted on a balanced subset of one half of the rows of each group, and the one
    with the highest worst-group accuracy on the other half is taken (of several, that with the highest mean over the
    groups, then the smallest); then all rows count.

    Source: Kirichenko, Izmailov and Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious
    Correlations", ICLR 2023.

    Args:
        model (`PreTrainedModel`): a classifier with a linear head, which gets the new weights.
        dataset: as in [`last_layer_features`]; `None` where there are `features`.
        groups (`str` or `Sequence`): the column that holds the group of a row, or (N,) groups: strings or numbers.
        processing_class, data_collator, batch_size, representation_layer: as in [`last_layer_features`].
        inverse_l1 (`Sequence[float]`, *optional*): values of C, above 0.
        num_subsets (`int`, *optional*, defaults to 10): how many balanced subsets there are.
        seed (`int`, *optional*, defaults to 0): of the subsets, the halves and the fits.
        features ([`Features`], *optional*): the rows' representations, where they are known already.

    Returns:
        [`ReweightedLayer`]

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: as for [`last_layer_features`]; a single group, or groups of another number than rows; a balanced
        subset without a row of some class; a group of one row where C has to be chosen; no C, or one that is not
        above 0.
        NotImplementedError: as for [`last_layer_features`].
    """
    _check_fit_options(inverse_l1, num_subsets)
    fit, head = _sparse_fit(seed), linear_head(model, representation_layer)
    labels = known_labels(model, dataset, features)
    groups = _known_groups(groups, dataset, len(labels))
    # All draws come before the first forward pass: a group that is too small shows at once.
    generator = np.random.default_rng(seed)
    subsets = [_balanced_rows(groups, labels, head.out_features, generator) for _ in range(num_subsets)]
    if len(inverse_l1) > 1:
        first, second = _halves(groups, generator)
        trial = first[_balanced_rows(groups[first], labels[first], head.out_features, generator)]
    if features is None:
        features = last_layer_features(
            model, dataset, processing_class, data_collator, batch_size, representation_layer
        )
    check_width(features, head)
    with_bias = head.bias is not None
    mean, scale = _standardisation(features.inputs, centred=with_bias)
    inputs = (features.inputs - mean) / scale
    best, tried, means = inverse_l1[0], {}, {}
    if len(inverse_l1) > 1:
        for value in sorted(inverse_l1):
            weight, bias = fit(inputs[trial], labels[trial], value, with_bias)
            correct = (inputs[second] @ weight.T + bias).argmax(axis=1) == labels[second]
            accuracies = [float(correct[groups[second] == group].mean()) for group in np.unique(groups)]
            tried[value], means[value] = min(accuracies), float(np.mean(accuracies))
        best = max(tried, key=lambda value: (tried[value], means[value]))
    fits = [fit(inputs[rows], labels[rows], best, with_bias) for rows in tqdm(subsets, desc="Subsets", disable=None)]
    weight, bias = (np.mean(parts, axis=0) for parts in zip(*fits, strict=True))
    write_head(head, weight / scale, bias - weight / scale @ mean)
    return ReweightedLayer(best, tried)


def _sparse_fit(seed: int) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`fit(inputs, labels, C, with_bias)`: (K, D) weight and (K,) bias of L1-penalised logistic regression."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError('Deep feature reweighting fits with scikit-learn: pip install "hf-cbft[demo]"') from error
    options = {"l1_ratio": 1.0, "solver": "saga", "max_iter": 5_000, "random_state": seed}
    if LogisticRegression().penalty != "deprecated":  # scikit-learn before 1.8 needs both
        options["penalty"] = "elasticnet"

    def fit(
        inputs: np.ndarray, labels: np.ndarray, inverse_l1: float, with_bias: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        fitted = LogisticRegression(C=inverse_l1, fit_intercept=with_bias, **options).fit(inputs, labels)
        weight, bias = fitted.coef_, np.broadcast_to(fitted.intercept_, len(fitted.coef_))
        if len(weight) == 1:  # of two classes it gives the difference of the logits
            weight, bias = np.concatenate([-weight, weight]) / 2.0, np.concatenate([-bias, bias]) / 2.0
        return weight, bias

    return fit


def _standardisation(inputs: np.ndarray, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """(D,) mean and standard deviation; a dimension that does not vary keeps its scale."""
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    flat = scale <= 1e-12 * np.abs(inputs).max(axis=0)
    return mean if centred else np.zeros_like(mean), np.where(flat, 1.0, scale)


def _balanced_rows(
    groups: np.ndarray, labels: np.ndarray, num_classes: int, generator: np.random.Generator
) -> np.ndarray:
    """A draw of as many rows of each group as the smallest has."""
    rows = balanced_rows(groups, how="subsample", seed=int(generator.integers(2**32)))
    # Where the groups are of class and attribute, as they should be, no class can be missing.
    check_classes(labels[rows], num_classes, f"A group-balanced subset of {len(rows)} rows")
    return rows


def _halves(groups: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the rows of each group, the first with the odd row."""
    in_first = np.zeros(len(groups), dtype=bool)
    for name in np.unique(groups):
        rows = generator.permutation(np.flatnonzero(groups == name))
        if len(rows) == 1:
            raise ValueError(
                f"The group {name} has one row, and choosing among several inverse_l1 takes two halves of each group: "
                "give one inverse_l1, or more rows."
            )
        in_first[rows[: (len(rows) + 1) // 2]] = True
    return np.flatnonzero(in_first), np.flatnonzero(~in_first)


def _known_groups(groups: str | Sequence[Any] | np.ndarray, dataset: Any, number: int) -> np.ndarray:
    """(N,), the group of each row; that each row has one is checked where they are balanced."""
    if isinstance(groups, str):
        check_not_empty(dataset, "The data set")
        groups = group_values(dataset, groups, "The data set")
    if len(groups) != number:
        raise ValueError(f"There are {len(groups)} groups for {number} rows: give one a row.")
    return np.asarray(groups)


def _check_fit_options(inverse_l1: Sequence[float], num_subsets: int) -> None:
    if not len(inverse_l1) or not all(value > 0.0 for value in inverse_l1):
        raise ValueError(f"inverse_l1 = {list(inverse_l1)}: give one or more values of C, each above 0.")
    if num_subsets < 1:
        raise ValueError(f"num_subsets = {num_subsets}: the head is an average over one balanced subset or more.")

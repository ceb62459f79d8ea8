# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The last linear layer alone: what enters it, and last layer retraining (LLRT), which changes nothing else."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_cbft.architectures import base_model, class_name, has_adapter
from hf_cbft.data.columns import check_not_empty, class_labels
from hf_cbft.data.inputs import InputCollator
from hf_cbft.paths.interpolation import evaluation_mode
from hf_cbft.representations import capture_representation, check_single_label, find_representation_layer
from hf_cbft.tasks.registry import listed_task, other_task

_NOT_INPUTS = ("labels", "class_labels")
# How far above the optimum the objective may end, as a fraction of it.
_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Features:
    """The inputs of the last linear layer, row by row.

    Args:
        inputs (`np.ndarray`): (N, D) float64.
        labels (`np.ndarray`): (N,) int64, the classes.

    Raises:
        ValueError: other shapes, no rows, or values that are not finite.
    """

    inputs: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.labels.shape != self.inputs.shape[:1] or not len(self.labels):
            raise ValueError(
                f"Features have inputs of shape (N, D) and labels of shape (N,), N at least 1; got "
                f"{self.inputs.shape} and {self.labels.shape}."
            )
        broken = np.flatnonzero(~np.isfinite(self.inputs).all(axis=1))
        if broken.size:
            raise ValueError(
                f"The representation of row {broken[0]} is not finite (of {broken.size} of {len(self.labels)} rows): "
                "the last layer cannot be fitted to it, so look at the weights and the inputs first."
            )


def last_layer_features(
    model: nn.Module,
    dataset: Any,
    processing_class: Any = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 64,
    representation_layer: str | None = None,
) -> Features:
    """The representation that enters the last linear layer, for each row: one pass in evaluation mode.

    Args:
        model (`PreTrainedModel`): a classifier with a linear head; it stays as it is.
        dataset (`datasets.Dataset` or map-style data set):
            Rows as [`~hf_cbft.data.inputs.InputCollator`] takes them, with a label.
        processing_class (*optional*): the model's image processor, tokenizer or feature extractor.
        data_collator (`Callable`, *optional*): collates the rows instead.
        batch_size (`int`, *optional*, defaults to 64): rows in a forward pass.
        representation_layer (`str`, *optional*):
            Name of the head; `None` takes the last linear layer with as many outputs as there are classes.

    Raises:
        ValueError: no rows, labels beyond the classes, several or no classes a row, a layer that does not give the
        logits, or logits that are not finite.
        NotImplementedError: another task, an adapter, or a head that is not a plain `torch.nn.Linear`.
    """
    head = linear_head(model, representation_layer)
    labels = classifier_labels(model, dataset)
    device = next(model.parameters()).device
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=InputCollator(model, processing_class, data_collator),
        generator=torch.Generator(),  # iterating a loader draws from the global one otherwise
    )
    parts: list[np.ndarray] = []
    with evaluation_mode(model), _graph_of(head, model), capture_representation(head) as captured:
        for batch in tqdm(loader, desc="Features", disable=None):
            inputs = {n: v.to(device) if torch.is_tensor(v) else v for n, v in batch.items() if n not in _NOT_INPUTS}
            outputs = model(**inputs)
            logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
            _check_finite(logits.detach(), sum(map(len, parts)))
            if not captured.gives(logits):
                raise ValueError(
                    f"The last linear layer of {class_name(model)} does not give its logits, so it is no head to "
                    "retrain alone: name the one that does with representation_layer, or fine-tune all weights."
                )
            parts.append(captured.per_row(logits).detach().double().cpu().numpy())
    features = Features(np.concatenate(parts), labels[: sum(map(len, parts))])
    if len(features.labels) != len(dataset):
        raise ValueError(
            f"The data_collator made {len(features.labels)} rows of the {len(dataset)} of the data set: leave it out, "
            "or pad instead of packing."
        )
    return features


@dataclass(frozen=True)
class RetrainedLayer:
    """The result of [`retrain_last_layer`].

    Args:
        objective (`float`): mean cross-entropy plus the penalty, nats.
        iterations (`int`): of the optimiser.
    """

    objective: float
    iterations: int


def retrain_last_layer(
    model: nn.Module,
    dataset: Any,
    processing_class: Any = None,
    *,
    l2: float = 1e-3,
    sample_weight: np.ndarray | None = None,
    features: Features | None = None,
    data_collator: Callable[[list[Any]], Any] | None = None,
    batch_size: int = 64,
    representation_layer: str | None = None,
    max_iterations: int = 10_000,
) -> RetrainedLayer:
    r"""LLRT, last layer retraining: a new head, in place, on a representation that stays as it is.

        min over W, b of  sum_i w_i CE(W f_i + b, y_i) / sum_i w_i  +  l2 / 2 ||W||^2

    f_i enters the last linear layer, and b is not penalised. The objective is convex, and is minimised in float64 by
    L-BFGS; it starts from zero, so that nothing of the head before is left, not even in a tie. A head without a bias
    stays without one. The model keeps its dtype.

    Source: last layer retraining is a baseline of Lubana et al., ICML 2023, who take SGD with learning rate 30 for 200
    epochs. Without a penalty there is no optimum where classes can be separated; with one, the result is that of no
    optimiser in particular. See also Kirichenko, Izmailov and Wilson, ICLR 2023.

    Args:
        model (`PreTrainedModel`): a classifier with a linear head, which gets the new weights.
        dataset: as in [`last_layer_features`]; `None` where there are `features`.
        processing_class, data_collator, batch_size, representation_layer: as in [`last_layer_features`].
        l2 (`float`, *optional*, defaults to 1e-3): the penalty, above 0.
        sample_weight (`np.ndarray`, *optional*): (N,) w_i, at least 0; `None` counts every row once.
        features ([`Features`], *optional*): the rows' representations, where they are known already.
        max_iterations (`int`, *optional*, defaults to 10,000): of the optimiser.

    Returns:
        [`RetrainedLayer`]

    Raises:
        ValueError: as for [`last_layer_features`]; a class without rows or weight, whose bias has no optimum; features
        of another size; `l2` or weights out of range.
        NotImplementedError: as for [`last_layer_features`].
        RuntimeError: the optimum was not reached within `max_iterations`. The model is then unchanged.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers import ViTConfig, ViTForImageClassification
    >>> from hf_cbft.baselines import Features, retrain_last_layer
    >>> small = {"hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2}
    >>> model = ViTForImageClassification(ViTConfig(**small, image_size=2, patch_size=2, num_labels=2))
    >>> features = Features(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0, 1]))
    >>> round(retrain_last_layer(model, None, features=features, l2=0.1).objective, 3)
    0.226
    >>> model.classifier.weight.data.round(decimals=2) + 0.0  # + 0.0: no negative zeros
    tensor([[ 1.0600,  0.0000],
            [-1.0600,  0.0000]])

    ```
    """
    if not l2 > 0.0:
        raise ValueError(
            f"l2 = {l2}: without a penalty the last layer has no optimum; give one above 0, such as 1e-3."
        )
    head = linear_head(model, representation_layer)
    labels = known_labels(model, dataset, features)
    weights = _row_weights(sample_weight, len(labels))
    if head.bias is not None:
        check_classes(labels[weights > 0.0], head.out_features, "The data set")
    if features is None:
        features = last_layer_features(
            model, dataset, processing_class, data_collator, batch_size, representation_layer
        )
    check_width(features, head)
    # Rows without their mean are better conditioned, and the bias makes up for it.
    mean = weights @ features.inputs if head.bias is not None else np.zeros(head.in_features)
    inputs, with_bias = features.inputs - mean, head.bias is not None
    size = head.out_features * (head.in_features + with_bias)
    result = minimize(
        _objective,
        np.zeros(size),
        args=(inputs, labels, weights, l2, head.out_features, with_bias),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 30, "ftol": 0.0, "gtol": 1e-9},
    )
    # With curvature l2 or more, the objective is at most ||gradient||^2 / (2 l2) above its minimum.
    if not result.jac @ result.jac / (2.0 * l2) <= _TOLERANCE * result.fun:
        raise RuntimeError(
            f"The last layer did not reach its optimum in {result.nit} iterations (gradient norm "
            f"{np.linalg.norm(result.jac):.1e}): raise max_iterations or l2. The model is unchanged."
        )
    weight, bias = _unpacked(result.x, head.out_features, with_bias)
    write_head(head, weight, bias - weight @ mean)
    return RetrainedLayer(float(result.fun), int(result.nit))


def _objective(
    parameters: np.ndarray,
    inputs: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    l2: float,
    num_classes: int,
    with_bias: bool,
) -> tuple[float, np.ndarray]:
    """The objective of last layer retraining and its gradient, for row weights that add up to 1."""
    weight, bias = _unpacked(parameters, num_classes, with_bias)
    log_probabilities = log_softmax(inputs @ weight.T + bias, axis=1)
    rows = np.arange(len(labels))
    loss = -(weights @ log_probabilities[rows, labels]) + l2 / 2.0 * (weight**2).sum()
    residuals = np.exp(log_probabilities)
    residuals[rows, labels] -= 1.0
    residuals *= weights[:, None]
    gradients = [(residuals.T @ inputs + l2 * weight).ravel(), residuals.sum(axis=0)]
    return loss, np.concatenate(gradients if with_bias else gradients[:1])


def _unpacked(parameters: np.ndarray, num_classes: int, with_bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """(K, D) weight and (K,) bias, zero where there is none."""
    bias = parameters[-num_classes:] if with_bias else np.zeros(num_classes)
    return parameters[: len(parameters) - num_classes * with_bias].reshape(num_classes, -1), bias


# What goes in


def _check_classifier(model: nn.Module) -> None:
    task = listed_task(model)
    other = other_task(model) if task is None else None if task.one_label_a_row else task.name.replace("_", " ")
    if other is not None:
        raise NotImplementedError(
            f"{class_name(model)} is made for {other}, and the baselines are for one class a row: "
            "give a classifier of images, texts or sounds."
        )
    check_single_label(base_model(model))


def classifier_labels(model: nn.Module, dataset: Any) -> np.ndarray:
    """(N,) int64, the classes of the rows, once model and rows are known to go together."""
    _check_classifier(model)
    check_not_empty(dataset, "The data set")
    return class_labels(dataset, "The data set", base_model(model).config.num_labels)


def known_labels(model: nn.Module, dataset: Any, features: Features | None) -> np.ndarray:
    if features is None:
        return classifier_labels(model, dataset)
    num_classes = base_model(model).config.num_labels
    if not 0 <= features.labels.min() <= features.labels.max() < num_classes:
        raise ValueError(
            f"The features have labels from {features.labels.min()} to {features.labels.max()}, but the classes are 0 "
            f"to {num_classes - 1}: make them with last_layer_features of this model."
        )
    return features.labels


def linear_head(model: nn.Module, name: str | None) -> nn.Linear:
    """The last linear layer, whose weights can be written."""
    _check_classifier(model)
    if has_adapter(model) or getattr(model, "_hf_peft_config_loaded", False):
        raise NotImplementedError(
            f"{class_name(model)} has an adapter, and its last layer is not written below it: merge the adapter first "
            "(merge_and_unload)."
        )
    num_classes = base_model(model).config.num_labels
    found, head = find_representation_layer(model, num_classes, name)
    if type(head) is not nn.Linear:  # quantised and parametrised layers are subclasses
        raise NotImplementedError(
            f"The head {found!r} of {class_name(model)} is a {type(head).__name__}, and only the weights of a plain "
            "torch.nn.Linear can be fitted and written: load it without quantisation, or fine-tune all weights."
        )
    if head.out_features != num_classes:
        raise ValueError(
            f"The layer {found!r} has {head.out_features} outputs, and {class_name(model)} has {num_classes} classes: "
            "name the layer that gives the logits with representation_layer, or leave it out."
        )
    return head


def _check_finite(logits: torch.Tensor, first_row: int) -> None:
    """A representation that is not finite shows in the logits, which can then not be compared."""
    broken = (~logits.isfinite()).flatten(start_dim=1).any(dim=1).nonzero()
    if len(broken):
        raise ValueError(
            f"The logits of row {first_row + int(broken[0])} are not finite, so there is no representation to fit the "
            "last layer to: look at the row and at the weights first."
        )


def check_width(features: Features, head: nn.Linear) -> None:
    if features.inputs.shape[1] != head.in_features:
        raise ValueError(
            f"The features have {features.inputs.shape[1]} dimensions, and the head takes {head.in_features}: make "
            "them with last_layer_features of this model."
        )


def check_classes(labels: np.ndarray, num_classes: int, what: str) -> None:
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if missing.size:
        raise ValueError(
            f"{what} has no row of the class {missing[0]} ({missing.size} of {num_classes} classes are missing), so "
            "nothing tells its weights: give rows of every class."
        )


def _row_weights(sample_weight: np.ndarray | None, number: int) -> np.ndarray:
    """(N,) float64, which add up to 1."""
    weights = np.ones(number) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (number,) or not (weights >= 0.0).all() or not 0.0 < weights.sum() < np.inf:
        raise ValueError(
            f"sample_weight has the shape {weights.shape} for {number} rows, or values that are no weights: give one "
            "finite number a row, at least 0, and not all 0."
        )
    return weights / weights.sum()


@contextmanager
def _graph_of(head: nn.Linear, model: nn.Module) -> Iterator[None]:
    """A graph of what follows the head and of nothing else: from it is read which position a decoder's logits are."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(parameter is head.weight)
        with torch.enable_grad():
            yield
    finally:
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)


def write_head(head: nn.Linear, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(bias))

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Which trainings and measurements each experiment is made of: a list of jobs, each of which can run on its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paper.findings.records import EXPERIMENTS, METHODS

# By experiment, the data set that it runs on where none is named.
_DATASETS = {
    "table1": "digits",
    "paths": "digits",
    "symmetry": "digits",
    "ablation": "digits",
    "sensitivity": "digits",
    "text": "sentences",
    "groups": "digit-groups",
}
_OWN_DATA = ("text", "groups")
SHARES = (0.6, 0.7, 0.8, 0.9, 1.0)
FINETUNINGS = METHODS[1:]
# Pairs whose paths are measured, as (start, end); `clean` and `clean-2` never met the cue. `clean` and `pretrained`
# begin with the same weights, `clean-2` with others.
PAIRS = {
    "clean-clean": ("clean", "clean-2"),
    "clean-cue": ("clean", "pretrained"),
    "clean-cue, apart": ("clean-2", "pretrained"),
    "cue-naive": ("pretrained", "naive-medium"),
    "cue-cbft": ("pretrained", "cbft"),
}
_PAIRS_OF = {
    "paths": ("clean-clean", "clean-cue", "cue-naive", "cue-cbft"),
    "symmetry": ("clean-clean", "clean-cue, apart", "cue-cbft"),
}
# How the line between a pair is measured: as the units are, or with the end's brought into the start's order.
ALIGNMENTS = ("linear", "weights", "activations")
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without L_B": {"barrier_coef": 0.0},
    "without L_I": {"invariance_coef": 0.0},
    "without warm-up": {"invariance_warmup_ratio": 0.0},
    "alternating": {"update_rule": "alternating"},
    "hinge": {"hinge": True},
    "barrier_stop_ratio 0.25": {"barrier_stop_ratio": 0.25},
    "barrier_stop_ratio 0.75": {"barrier_stop_ratio": 0.75},
    "barrier_stop_ratio 1": {"barrier_stop_ratio": 1.0},
}
_CLEAN_ROWS = (50, 90, 250, 500)
_STRETCHES = ((0.5, 0.5), (0.1, 0.9), (0.0, 1.0))
# Of the recipe's own margin, and of its learning rate and lambda, both at once.
_MARGINS = (0.25, 0.5, 2.0)
_FACTORS = (0.3, 1.0, 3.0)


def file_name(text: str) -> str:
    """`text` as the name of a file or folder: what may not stand in one, such as the slash of a path, is `_`."""
    return "".join(sign if sign.isalnum() or sign in "-._" else "_" for sign in text)


@dataclass(frozen=True, eq=False)
class Job:
    """One model that is trained and measured, or one pair of models whose path is.

    Args:
        method (`str`): one of [`METHODS`], `clean`, `clean-2`, or for a path `linear`, `quadratic`, or how its
            end is aligned.
        share (`float`): of the cue in the pretraining rows.
        seed (`int`): of the model, the cues and the order of the rows.
        variant (`tuple[str, Any]`, *optional*): the setting that differs, and its value.
        overrides (`dict`, *optional*): that setting as the method takes it.
        pair (`str`, *optional*): of [`PAIRS`], for a path.
        kept (`bool`, *optional*): whether the model's folder stays, because another job starts from it.
    """

    method: str
    share: float
    seed: int
    variant: tuple[str, Any] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    pair: str | None = None
    kept: bool = False

    @property
    def name(self) -> str:
        """Its file, and what the screen calls it."""
        setting, value = self.variant or (None, None)
        values = value if isinstance(value, list) else [value]
        words = [self.pair, self.method, setting, *(None if value is None else f"{value:g}" for value in values)]
        what = file_name("-".join(word for word in words if word))
        return f"{what}-share{self.share:g}-seed{self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The methods whose models it starts from, of the same share and seed."""
        if self.pair is not None:
            return PAIRS[self.pair]
        return () if self.method in ("pretrained", "clean", "clean-2") else ("pretrained",)


def jobs_of(
    experiment: str,
    shares: Sequence[float],
    seeds: Sequence[int],
    methods: Sequence[str] | None = None,
    recipe: Any = None,
    quick: bool = False,
) -> list[Job]:
    """The jobs of an experiment, in the order in which they are best done: what others need comes first.

    Args:
        experiment (`str`): of [`EXPERIMENTS`].
        shares (`Sequence[float]`), seeds (`Sequence[int]`): the grid.
        methods (`Sequence[str]`, *optional*): of [`METHODS`]; `None`: all.
        recipe ([`Recipe`]): whose settings the sensitivity is about.
        quick (`bool`, *optional*): two variants instead of all.
    """
    cells = [(share, seed) for share in shares for seed in seeds]
    jobs = [Job("pretrained", share, seed, kept=True) for share, seed in cells]
    for share, seed in cells:
        if experiment in _PAIRS_OF:
            jobs += _paths(experiment, share, seed)
        elif experiment in ("ablation", "sensitivity"):
            variants = _ablations() if experiment == "ablation" else _sensitivities(recipe)
            chosen = list(variants)[:3] if quick else variants
            jobs += [Job("cbft", share, seed, variant, overrides) for variant, overrides in chosen]
        else:
            chosen_methods = FINETUNINGS if methods is None else [m for m in FINETUNINGS if m in methods]
            jobs += [Job(method, share, seed) for method in chosen_methods if _applies(method, share)]
    return jobs


def _applies(method: str, share: float) -> bool:
    """Where all rows carry the cue there are no groups of a class to balance."""
    return not (method == "balanced" and share == 1.0)


def _paths(experiment: str, share: float, seed: int) -> Iterable[Job]:
    pairs = _PAIRS_OF[experiment]
    models = dict.fromkeys(method for pair in pairs for method in PAIRS[pair])
    yield from (Job(method, share, seed, kept=True) for method in models if method != "pretrained")
    for pair in pairs:
        kinds = ALIGNMENTS if experiment == "symmetry" else ("linear", "quadratic")
        yield from (Job(kind, share, seed, pair=pair) for kind in kinds)


def _ablations() -> Iterable[tuple[tuple[str, Any], dict[str, Any]]]:
    for name, overrides in ABLATIONS.items():
        yield (name, None), overrides


def _sensitivities(recipe: Any) -> Iterable[tuple[tuple[str, Any], dict[str, Any]]]:
    own = {"invariance_coef": recipe.invariance_coef, "learning_rate": recipe.cbft_lr}
    yield ("default", None), {}
    for number in _CLEAN_ROWS:
        yield ("num_clean", number), {"num_clean": number}
    for factor in _MARGINS:
        margin = _rounded(factor * recipe.barrier_margin)
        yield ("barrier_margin", margin), {"barrier_margin": margin}
    for low, high in _STRETCHES:
        yield ("alpha_min to alpha_max", [low, high]), {"alpha_min": low, "alpha_max": high}
    for rate in _FACTORS:
        for coefficient in _FACTORS:
            pair = [_rounded(rate * own["learning_rate"]), _rounded(coefficient * own["invariance_coef"])]
            yield (
                ("learning_rate x invariance_coef", pair),
                {"learning_rate": pair[0], "invariance_coef": pair[1]},
            )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def check_experiment(experiment: str, dataset: str | None) -> str:
    """The data set of an experiment.

    Raises:
        ValueError: an unknown experiment, or data that it does not run on.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {experiment!r}; there is {', '.join(EXPERIMENTS)}.")
    own = _DATASETS[experiment]
    if experiment not in _OWN_DATA:
        return dataset or own
    if dataset not in (None, own):
        raise ValueError(f"experiment {experiment} runs on {own}, which it generates: leave --dataset {dataset} out.")
    return own

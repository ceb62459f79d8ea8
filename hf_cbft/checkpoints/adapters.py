# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Two adapters on one base, or an adapter and its base: what of them can be interpolated."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_cbft.checkpoints.configs import BLOCKING, DIFFERS, SAME, Finding, named
from hf_cbft.checkpoints.headers import Checkpoint, EndPoint
from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.checkpoints.tensors import compare_tensors

_FACTOR = re.compile(r"\.lora_(?:embedding_)?(A|B)(?:\.weight)?$")
_PREFIX = "base_model.model."
# Adapters that are more than W + s B A.
VARIANTS = (
    "use_dora",
    "use_qalora",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
# Initialisations that leave the base as it is.
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "orthogonal")
_MERGE = "merge each into its base (merge_and_unload), save them, and compare these folders."


def compare_adapters(first: EndPoint, second: EndPoint) -> tuple[list[Finding], str]:
    """The findings, and what a path would move. At least one of the two is an adapter."""
    findings = [*_check_own_base("start", first), *_check_own_base("end", second), _compare_bases(first, second)]
    plain = True
    for side, end in (("start", first), ("end", second)):
        if end.adapter is None:
            continue
        odd = _check_kind(side, end.adapter.config)
        plain = plain and not odd
        findings += [*odd, *_check_fit(side, end.adapter, end.model)]
    if first.adapter and second.adapter:
        findings += _compare_settings(first.adapter, second.adapter)
    if not plain:
        return findings, "the merged weights"
    if first.adapter and second.adapter:
        return findings, "two adapters on one base, scaled by 1 - alpha and by alpha"
    return findings, f"the adapter's scale, {'from 0 to 1' if second.adapter else 'from 1 to 0'}"


def _check_own_base(side: str, end: EndPoint) -> list[Finding]:
    """A base that was named beside an adapter, against the one that the adapter itself names."""
    if end.adapter is None or not end.named_base or _last_part(end.named_base) == _last_part(end.model.name):
        return []
    text = f"the {side}'s adapter was trained on {end.named_base}, not on {end.model.name}."
    return [Finding("base", BLOCKING, text, f"Give {end.named_base}+{end.adapter.name}.")]


def _compare_bases(first: EndPoint, second: EndPoint) -> Finding:
    ours, theirs = first.model.name, second.model.name
    both_here = Path(ours).exists() and Path(theirs).exists()
    if Path(ours).resolve() == Path(theirs).resolve() if both_here else ours == theirs:
        return Finding("base", SAME, ours)
    text = f"an adapter on another base: {ours} at the start, {theirs} at the end."
    return Finding("base", BLOCKING, text, f"Adapters share a path on one base only: {_MERGE}")


def _check_kind(side: str, config: Mapping[str, Any]) -> list[Finding]:
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        text = f"the {side}'s is of the kind {kind}, not LoRA, and it has no scale to interpolate."
        return [Finding("adapter", BLOCKING, text, f"If it can be merged, {_MERGE}")]
    reasons = [f"with {name}" for name in VARIANTS if config.get(name)]
    if config.get("init_lora_weights", True) not in PLAIN_INITIALISATIONS:
        reasons.append(f"with init_lora_weights={config['init_lora_weights']!r}")
    if not reasons:
        return []
    text = f"the {side}'s is LoRA {' and '.join(reasons)}, so that its line from the base is not its scale."
    return [
        Finding("adapter", DIFFERS, text, "The line between the merged weights is taken, in the memory of full ones.")
    ]


def _check_fit(side: str, adapter: Checkpoint, base: Checkpoint) -> list[Finding]:
    """Return `True` if B A has the shape of the weight that it is added to."""
    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in adapter.tensors.items():
        match = _FACTOR.search(name)
        if match and len(tensor.shape) == 2:
            factors.setdefault(name[: match.start()].removeprefix(_PREFIX), {})[match[1]] = tensor.shape
    whole = {module: shapes for module, shapes in factors.items() if len(shapes) == 2}
    weights = {module: _weight_of(module, base) for module in whole}
    unfit = [
        f"{module}.weight is {list(weight)}, B A is {[whole[module]['B'][0], whole[module]['A'][1]]}"
        for module, weight in weights.items()
        # GPT-2 keeps its linear layers the other way round, and so do embeddings.
        if weight and sorted(weight) != sorted((whole[module]["B"][0], whole[module]["A"][1]))
    ]
    missing = [module for module, weight in weights.items() if weight is None]
    findings = []
    if unfit:
        text = f"the {side}'s does not fit on {base.name}: {named(unfit[:3], len(unfit), '; ')}."
        findings.append(Finding("adapter", BLOCKING, text, "Give the base that it was trained on, as base+adapter."))
    if missing:
        text = (
            f"{len(missing)} of {len(whole)} modules of the {side}'s have no such name in {base.name} "
            f"({named(missing[:3], len(missing))})."
        )
        advice = "Transformers may rename them when it loads; where it does not, this is another base."
        findings.append(Finding("adapter", DIFFERS, text, advice))
    if whole and not unfit and not missing:
        findings.append(
            Finding("adapter", SAME, f"the {side}'s fits on the base: {len(whole)} module{'s' * (len(whole) > 1)}")
        )
    return findings


def _weight_of(module: str, base: Checkpoint) -> tuple[int, ...] | None:
    """The shape of a module's weight, also in a base that was saved with or without its prefix."""
    name = f"{module}.weight"
    if name not in base.tensors:
        _, _, name = name.partition(".")
    if name not in base.tensors:
        name = next((other for other in base.tensors if other.endswith(f".{module}.weight")), name)
    return base.tensors[name].shape if name in base.tensors else None


def _compare_settings(first: Checkpoint, second: Checkpoint) -> list[Finding]:
    ours, theirs = first.config, second.config
    findings = []
    if ours.get("task_type") != theirs.get("task_type"):
        text = f"task_type is {ours.get('task_type')} at the start and {theirs.get('task_type')} at the end."
        findings.append(Finding("adapter", BLOCKING, text, "Take adapters for one task."))
    for key, what in (("r", "the rank"), ("lora_alpha", "lora_alpha"), ("target_modules", "target_modules")):
        values = [sorted(value) if isinstance(value, list) else value for value in (ours.get(key), theirs.get(key))]
        if values[0] != values[1]:
            text = f"{what} is {values[0]} at the start and {values[1]} at the end."
            advice = "Their products B A have the base's shapes all the same; nothing to do."
            findings.append(Finding("adapter", DIFFERS, text, advice))
    # modules_to_save, biases, token deltas: these are interpolated one by one.
    rest = [{name: t for name, t in part.tensors.items() if ".lora_" not in name} for part in (first, second)]
    advice = "Take adapters that train the same other modules."
    return findings + compare_tensors("trained beside", rest[0], rest[1], advice)


def _last_part(name: str) -> str:
    return Path(split_revision(name)[0]).name

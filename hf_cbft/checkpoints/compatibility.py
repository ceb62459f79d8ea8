# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Compare two checkpoints as the ends of a path, from their configurations and headers alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_cbft.checkpoints.adapters import compare_adapters
from hf_cbft.checkpoints.configs import BLOCKING, DIFFERS, SAME, Finding, compare_configs, compare_labels, named
from hf_cbft.checkpoints.headers import Checkpoint, EndPoint, read_end_point
from hf_cbft.checkpoints.processing import FILES, compare_processing
from hf_cbft.checkpoints.sources import Folder, Repository
from hf_cbft.checkpoints.tensors import Tensors, body, compare_tensors, compare_ties, head

_ASK = "ask for --ignore_head (compare all but the heads), or for --head_from start or end."


@dataclass
class Compatibility:
    """The result of [`compare`].

    Args:
        start (`str`): the start of the path.
        end (`str`): its end.
        interpolates (`str`): what a path between the two would move.
        findings (`list[Finding]`): what was compared, each with its level.
        notes (`list[str]`): what to know of where this comes from.

    Example:

    ```py
    >>> types = Finding("dtype", "differs", "F32 at the start, BF16 at the end.", "Load both in one type.")
    >>> report = Compatibility("org/a", "org/b", "201 tensors, 109,483,778 parameters", [types])
    >>> report.compatible
    True
    >>> print(report)
    org/a -> org/b: can be interpolated
      a path moves 201 tensors, 109,483,778 parameters
    differs:
      dtype:         F32 at the start, BF16 at the end.
                     -> Load both in one type.

    ```
    """

    start: str
    end: str
    interpolates: str = ""
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def compatible(self) -> bool:
        """`True` if no finding stands in the way of a path."""
        return not self.at_level(BLOCKING)

    def at_level(self, level: str) -> list[Finding]:
        """The findings of one level: `"blocking"`, `"differs"` or `"same"`."""
        return [finding for finding in self.findings if finding.level == level]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "start": self.start,
            "end": self.end,
            "compatible": self.compatible,
            "interpolates": self.interpolates if self.compatible else None,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        verdict = "can be interpolated" if self.compatible else "cannot be interpolated"
        lines = [f"{self.start} -> {self.end}: {verdict}"]
        if self.compatible:
            lines.append(f"  a path moves {self.interpolates}")
        for level, title in ((BLOCKING, "in the way"), (DIFFERS, "differs"), (SAME, "same")):
            found = self.at_level(level)
            if found:
                lines.append(f"{title}:")
            for finding in found:
                lines.append(f"  {finding.topic + ':':14} {finding.text}")
                if finding.advice:
                    lines.append(f"  {'':14} -> {finding.advice}")
        return "\n".join([*lines, *self.notes])


def compare(
    start: str | Path,
    end: str | Path,
    *,
    deep: bool = False,
    ignore_head: bool = False,
    head_from: str | None = None,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
) -> Compatibility:
    """Compare two checkpoints as the ends of a path: can they be, and what differs? No weights are read.

    Names alone are no reason against a path: Transformers renames some when it loads a checkpoint. Where the classes
    and sizes agree, weights under other names are taken for the same if their shapes are, each as often.

    Args:
        start (`str` or `Path`): a folder, `org/name`, `org/name@revision`, an adapter's folder or id, `base+adapter`.
        end (`str` or `Path`): likewise.
        deep (`bool`, *optional*, defaults to `False`): whether to read tokenizer and processor files that differ.
        ignore_head (`bool`, *optional*, defaults to `False`): compare all but the heads.
        head_from (`str`, *optional*): `"start"` or `"end"`: that end's head at all points, the other's nowhere.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            whether a class that only the repository's code has will be loaded (`compare` itself runs no code).
        token (`str` or `bool`, *optional*): for private repositories; `None` is the usual one.

    Returns:
        [`Compatibility`]

    Raises:
        TypeError: an end that is neither a folder nor an id.
        ValueError: contradicting options; an end that is not there, damaged, or pickled.
        OSError: the Hub cannot be reached and the cache has nothing.
    """
    for source in (start, end):
        if not isinstance(source, str | Path):
            raise TypeError(
                f"compare reads files, and got a {type(source).__name__}: save it with save_pretrained, and give the "
                "folder."
            )
    if head_from not in (None, "start", "end"):
        raise ValueError(f'head_from is "start" or "end"; got {head_from!r}.')
    if head_from and ignore_head:
        raise ValueError("ignore_head leaves out both heads and head_from takes one of them: give one of the two.")
    known: dict[str, Any] = {}
    first, second = read_end_point(start, token, known), read_end_point(end, token, known)
    report = Compatibility(first.name, second.name)
    sources = [part.source for each in (first, second) for part in (each.model, each.adapter) if part]
    report.notes = list(dict.fromkeys(source.note for source in sources if source.note))
    if first.adapter or second.adapter:
        report.findings, report.interpolates = compare_adapters(first, second)
    else:
        asked = "left out" if ignore_head else f"the {head_from}'s at all points" if head_from else None
        report.findings, report.interpolates = _compare_models(first.model, second.model, asked)
    report.findings += _check_class("start", first.model, trust_remote_code)
    report.findings += _check_class("end", second.model, trust_remote_code)
    report.findings += compare_processing(_processing(first), _processing(second), deep)
    return report


def _compare_models(first: Checkpoint, second: Checkpoint, asked: str | None) -> tuple[list[Finding], str]:
    """The findings, and what a path would move. `asked`: what is to be done with the heads, if it was asked for."""
    if first.config.get("model_type") != second.config.get("model_type"):
        return _compare_architectures(first.config, second.config), ""
    ties, ours, theirs = compare_ties(first, second)
    findings = [
        _compare_classes(first.config, second.config, asked),
        *compare_configs(first.config, second.config),
        *_compare_vocabularies(first.config, second.config),
        *ties,
        *compare_tensors(
            "weights", body(ours), body(theirs), "No shape is changed in silence: take models that agree."
        ),
        *_compare_heads(head(ours), head(theirs), asked),
        *compare_labels(first.config, second.config, asked is not None),
        *_compare_types(first, second),
        *_check_one_file(first, second),
    ]
    moved = body(ours) if asked else ours
    moves = f"{len(moved)} tensors, {sum(tensor.size for tensor in moved.values()):,} parameters"
    return findings, moves + (f"; the head is {asked}" if asked else "")


def _compare_architectures(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Finding]:
    """Two of them: what comes after would only repeat it, but for the sizes that both give."""
    ours, theirs = (f"{_class_name(config)} ({config.get('model_type')})" for config in (first, second))
    text = f"{ours} at the start, {theirs} at the end."
    advice = "There is no line between two architectures: take checkpoints of one."
    common = [key for key in first if key in second]
    found = compare_configs({key: first[key] for key in common}, {key: second[key] for key in common})
    return [
        Finding("architecture", BLOCKING, text, advice),
        *(finding for finding in found if finding.topic == "size"),
        *_compare_vocabularies(first, second),
    ]


def _compare_classes(first: Mapping[str, Any], second: Mapping[str, Any], asked: str | None) -> Finding:
    ours, theirs = _class_name(first), _class_name(second)
    if ours == theirs:
        return Finding("architecture", SAME, str(ours))
    text = f"{ours} at the start, {theirs} at the end."
    if asked:
        return Finding("architecture", DIFFERS, text)
    return Finding("architecture", BLOCKING, text, f"The rest may fit: {_ASK}")


def _compare_vocabularies(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Finding]:
    sizes = [
        config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size")) for config in (first, second)
    ]
    if sizes[0] == sizes[1] or None in sizes:
        return [Finding("vocabulary", SAME, f"{sizes[0]} tokens")] if sizes[0] and sizes[0] == sizes[1] else []
    text = f"{sizes[0]} tokens at the start, {sizes[1]} at the end."
    advice = (
        "No row is cut or added in silence: bring both to one size (resize_token_embeddings), with the same tokens."
    )
    return [Finding("vocabulary", BLOCKING, text, advice)]


def _compare_heads(ours: Tensors, theirs: Tensors, asked: str | None) -> list[Finding]:
    if asked is None:
        return compare_tensors("head", ours, theirs, f"No head is changed in silence: {_ASK}")
    shown = [
        named((f"{name} {list(tensor.shape)}" for name, tensor in list(part.items())[:2]), len(part)) or "none"
        for part in (ours, theirs)
    ]
    return [Finding("head", DIFFERS, f"{asked}, as asked: {shown[0]} at the start; {shown[1]} at the end.")]


def _compare_types(first: Checkpoint, second: Checkpoint) -> list[Finding]:
    findings = []
    for side, model in (("start", first), ("end", second)):
        quantized = model.config.get("quantization_config")
        if quantized:
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            text = f"the {side} is quantized ({method or 'see its config.json'}), and quantized weights have no line."
            findings.append(Finding("dtype", BLOCKING, text, "Take the original, or dequantize it and save that."))
    ours, theirs = (" and ".join(sorted({t.dtype for t in model.tensors.values()})) for model in (first, second))
    if ours == theirs:
        return [*findings, Finding("dtype", SAME, ours)]
    advice = "Load both in one type, --dtype float32 for example."
    return [*findings, Finding("dtype", DIFFERS, f"{ours} at the start, {theirs} at the end.", advice)]


def _check_one_file(first: Checkpoint, second: Checkpoint) -> list[Finding]:
    """Two repositories whose weight files are the same; those of a folder would have to be read for that."""
    if not isinstance(first.source, Repository) or not isinstance(second.source, Repository):
        return []
    ours, theirs = map(first.source.etag, first.files), map(second.source.etag, second.files)
    if list(ours) != list(theirs):
        return []
    text = "both ends have the very same weight files: a path between them stays where it is."
    return [Finding("weights", DIFFERS, text, "See that these are the two that you mean.")]


def _check_class(side: str, model: Checkpoint, trust_remote_code: bool) -> list[Finding]:
    """A finding for an end that Transformers itself cannot load."""
    import transformers

    name = _class_name(model.config)
    # Not `hasattr`, which would load the class, and torch.
    if name in transformers.__all__:
        return []
    if name is None or not model.config.get("auto_map"):
        text = f"the {side} names the class {name}, which Transformers {transformers.__version__} does not have."
        return [Finding("code", BLOCKING, text, "Load it yourself, and pass the model to ConnectivityEvaluator.")]
    text = f"{name} of the {side} is defined by the repository's own code."
    if trust_remote_code:
        return [Finding("code", DIFFERS, text)]
    return [Finding("code", BLOCKING, text, "Read that code, and allow it with --trust_remote_code.")]


def _class_name(config: Mapping[str, Any]) -> str | None:
    return (config.get("architectures") or [None])[0]


def _processing(end: EndPoint) -> Folder | Repository:
    """Where an end's tokenizer and image processor are: with its adapter where that has brought its own."""
    if end.adapter and any(name in end.adapter.source.names for name in FILES):
        return end.adapter.source
    return end.model.source

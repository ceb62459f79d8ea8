# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""An alignment: which unit of a network goes where, how that was found, and what it was proven by."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from hf_cbft.alignment.symmetries import Permutations, Specification
from hf_cbft.files import whole_file
from hf_cbft.paths.geometry import LazyWeights, Weights

FILE_NAME = "alignment.safetensors"
_FORMAT = "hf_cbft alignment 1"


@dataclass(frozen=True)
class Alignment:
    """The permutations that bring one network's units into the order of another's.

    Args:
        permutations (`dict[str, np.ndarray]`):
            By space, which unit comes to each place: (n,), or (units of the outer space, n) for spaces within another.
        specification ([`~hf_cbft.alignment.symmetries.Specification`]): what carries them in this architecture.
        info (`dict[str, Any]`): `start`, `end`, `family`, `method`, `seed`, the `objective` and its value `before` and
            `after`, the `gate` (the largest difference of the logits, relative), and `dead` units by space.
    """

    permutations: Permutations
    specification: Specification
    info: dict[str, Any] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> nn.Module:
        """Move the units of a model of this architecture, in place.

        Args:
            model (`torch.nn.Module`): the end that was aligned, or another of its kind. Tied weights stay tied.

        Returns:
            `torch.nn.Module`: the model.

        Raises:
            ValueError: a model of other tensors or shapes.
        """
        self.check(model)
        self.specification.permute_(model, self.permutations)
        return model

    def permuted(self, weights: Weights) -> LazyWeights:
        """Weights of such a model whose units are moved when they are asked for: nothing is held twice."""
        return LazyWeights(weights, lambda name: self.specification.permuted(name, weights[name], self.permutations))

    def inverse(self) -> "Alignment":
        """The alignment that undoes this one."""
        return Alignment(
            self.specification.inverse(self.permutations), self.specification, {**self.info, "inverted": True}
        )

    @property
    def moved(self) -> float:
        """The share of the units that change places, from 0 to 1."""
        identity = self.specification.identity()
        units = sum(p.size for p in self.permutations.values())
        return sum(int((p != identity[s]).sum()) for s, p in self.permutations.items()) / max(1, units)

    def save(self, file: str | Path) -> None:
        """Write it as one safetensors file, which [`Alignment.load`] reads."""
        tensors = {space: np.ascontiguousarray(p, dtype=np.int64) for space, p in self.permutations.items()}
        notes = {
            "format": _FORMAT,
            "specification": json.dumps(self.specification.to_dict()),
            "info": json.dumps(self.info),
        }
        with whole_file(file) as written:
            save_file(tensors, str(written), notes)

    @classmethod
    def load(cls, file: str | Path) -> "Alignment":
        """Read what [`Alignment.save`] has written, from the file or the folder that it is in.

        Raises:
            ValueError: no alignment, or a damaged one.
        """
        place = Path(file) / FILE_NAME if Path(file).is_dir() else Path(file)
        if not place.is_file():
            raise ValueError(f"{file} is no alignment: give the file, or the folder, of hf-cbft align.")
        try:
            with safe_open(str(place), framework="numpy") as stored:
                notes = stored.metadata() or {}
                permutations = {space: stored.get_tensor(space) for space in stored.keys()}  # noqa: SIM118
            if notes.get("format") != _FORMAT:
                raise ValueError(f"its format is {notes.get('format')!r}, not {_FORMAT!r}")
            specification = Specification.from_dict(json.loads(notes["specification"]))
            permutations = check_permutations(specification, permutations, "it")
            return cls(permutations, specification, json.loads(notes["info"]))
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{place} holds no alignment that can be read ({error}): make it again.") from error

    def to_dict(self) -> dict[str, Any]:
        """How it was made and what it does, but for the permutations, for a JSON file."""
        return {**self.info, "moved": self.moved}

    def summary(self) -> str:
        """In one line: how the units were matched, and how many of them moved."""
        info = self.info
        text = f"{info.get('method', 'given')}, {self.moved:.1%} of the units moved"
        if "objective" in info:
            text += f"; {info['objective']}: {info['before']:.4g} before, {info['after']:.4g} after"
        return text

    def __str__(self) -> str:
        info = self.info
        how = f"{self.specification.name}, {info.get('method', 'given')}"
        lines = [f"{info.get('end', 'end')} aligned with {info.get('start', 'start')} ({how})"]
        if "objective" in info:
            lines.append(f"{info['objective']}: {info['before']:.6g} before, {info['after']:.6g} after")
        lines.append(f"{self.moved:.1%} of the units changed places")
        if info.get("dead"):
            dead = ", ".join(f"{number} of {space}" for space, number in list(info["dead"].items())[:3])
            lines.append(f"dead units, matched last, by their weights: {dead}")
        if "gate" in info:
            lines.append(f"same function: the logits differ by {info['gate']:.1g} of the largest at most, in float64")
        return "\n".join(lines)

    def check(self, model: nn.Module) -> None:
        """Raise a `ValueError` unless a model has the tensors that are moved, in their sizes."""
        weights = model.state_dict()
        for name, axes in self.specification.axes.items():
            for dim, axis in enumerate(axes):
                length = sum(self.specification.length(part) for part in axis)
                has = weights[name].shape[dim] if name in weights else 0
                if axis and has != length:
                    raise ValueError(
                        f"The alignment moves {length} units of {name}, and this {type(model).__name__} has {has}: "
                        "give a model of the architecture and sizes that it was made for."
                    )


def check_permutations(specification: Specification, given: Mapping[str, Any], what: str) -> Permutations:
    """Permutations of all spaces; those that are not given stay as they are.

    Raises:
        ValueError: a space that there is not, or what is no permutation of its units.
    """
    found = specification.identity()
    for space, permutation in given.items():
        if space not in found:
            near = ", ".join(list(found)[:5])
            raise ValueError(
                f"{what} moves {space}, and this architecture has no such space: it has {near}, and so on."
            )
        array = np.asarray(permutation)
        if array.shape != found[space].shape or not np.array_equal(np.sort(array, axis=-1), found[space]):
            wrong = (
                "numbers twice or out of that range"
                if array.shape == found[space].shape
                else f"the shape {array.shape}"
            )
            raise ValueError(
                f"{what} has no permutation for {space}: it takes whole numbers from 0 to "
                f"{found[space].shape[-1] - 1}, each once, in the shape {found[space].shape}; got {wrong}."
            )
        found[space] = array.astype(np.int64)
    return found

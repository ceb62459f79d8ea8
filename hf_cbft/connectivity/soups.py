# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The uniform average of checkpoints, which serves where no barrier lies between them: what it is and what is said."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from hf_cbft.checkpoints.sources import split_revision
from hf_cbft.connectivity.matrix_results import MatrixResult
from hf_cbft.files import nan_as_null
from hf_cbft.paths.geometry import Weights
from hf_cbft.tables import format_number, markdown_table

SOUP_FILE = "soup.json"


@dataclass(frozen=True)
class Soup:
    """The uniform average of several checkpoints, measured.

    Attributes:
        members (`list[str]`): names of the checkpoints.
        losses (`dict[str, float]`): by set, nats.
        metrics (`dict[str, dict[str, float]]`): by set and metric.
    """

    members: list[str]
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; a metric that is undefined is `None`."""
        return {"members": self.members, "losses": self.losses, "metrics": nan_as_null(self.metrics)}


@dataclass(frozen=True)
class Average:
    """The uniform average of its anchors: a path of one point."""

    anchors: Sequence[Weights | None]

    def coefficients(self, alpha: float) -> tuple[float, ...]:
        return (1.0 / len(self.anchors),) * len(self.anchors)


def check_members(result: MatrixResult, members: Sequence[str], across_barriers: bool) -> None:
    """Refuse what is no average, and, unless asked for, one across a barrier, with a `ValueError`."""
    if len(set(members)) < 2 or len(set(members)) < len(members):
        raise ValueError(f"A soup of {', '.join(members) or 'nothing'} is no average: name two or more, each once.")
    for first, second in combinations(members, 2):
        barrier = result.barrier(first, second)
        if barrier.connected is not True and not across_barriers:
            verdict = "not connected" if barrier.connected is False else "not known to be connected"
            raise ValueError(
                f"{first} and {second} are {verdict} on {result.settings['on']!r} (barrier {barrier.height:.3f} "
                "nats), so their average may be worse than both: leave one out, or ask for it all the same with "
                "across_barriers=True."
            )


def read_soup(folder: Path, members: Sequence[str]) -> Soup | None:
    """What `soup.json` says of the soup of these members in `folder`; `None` where there is none."""
    file = folder / SOUP_FILE
    if not file.exists():
        return None
    found = Soup(**json.loads(file.read_text(encoding="utf-8")))
    return found if found.members == list(members) else None


def check_free(folder: Path) -> None:
    """Refuse a folder that is not new or empty, before anything is measured."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: name another folder, or remove it first.")


def soup_card(soup: Soup, sources: Sequence[str], result: MatrixResult) -> str:
    """The model card of a soup of some `sources`, with the metadata that the Hub reads."""
    bases = [split_revision(source)[0] for source in sources if "/" in source and not Path(source).exists()]
    data = ModelCardData(library_name="transformers", tags=["hf_cbft", "merge"], base_model=bases or None)
    highest = max((result.barrier(*pair) for pair in combinations(soup.members, 2)), key=lambda b: b.height)
    high = "-" if highest.high is None else f"{highest.high:.3f}"
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        "# A soup of checkpoints\n",
        f"The uniform average of the weights of {len(sources)} checkpoints, written by hf_cbft:\n",
        *(f"- {source}" for source in sources),
        f"\nThe highest barrier between two of them on `{result.settings['on']}` is {highest.height:.3f} nats "
        f"({100 * highest.confidence:g} % band up to {high}; up to {highest.tolerance:g} counts as connected). "
        "Running statistics of BatchNorm, where there are any, were estimated anew if calibration data was given.",
    ]
    rows = [result.names.index(member) for member in soup.members]
    table = [["set", "loss of the soup", "lowest of its members", "highest"]]
    for name, loss in soup.losses.items():
        own = result.losses[name][rows] if name in result.losses else None
        table.append([name, *map(format_number, [loss, *([None, None] if own is None else [own.min(), own.max()])])])
    if soup.losses:
        lines.append(f"\n{markdown_table(table)}")
    return "\n".join([*lines, ""])

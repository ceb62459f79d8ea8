# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""All pairs of several checkpoints: their barriers, who is connected with whom, kept and shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from hf_cbft.analysis.barriers import Barrier
from hf_cbft.connectivity.results import ConnectivityResult
from hf_cbft.files import nan_as_null, read_measured, whole_folder, write_json
from hf_cbft.tables import format_band, format_list, format_table

_SCHEMA_VERSION = 1
# Behind a height in the table: connected, not connected, undecided.
_MARKS = {True: "   ", False: " no", None: " ? "}


def clusters(heights: np.ndarray, verdicts: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """Groups in which every pair is connected, by complete linkage: being connected is not transitive.

    The two groups whose worst pair has the lowest barrier are joined first, and none whose worst pair is not connected
    or undecided: an undecided pair is no evidence.

    Args:
        heights (`np.ndarray`): (N, N), symmetric, nats; a negative one counts as 0.
        verdicts (`np.ndarray`): (N, N), symmetric, of `True`, `False` and `None`.

    Returns:
        `tuple[list[list[int]], list[int]]`: the members of each cluster, in the order of their first ones, and all
        members in an order that keeps clusters, and those that are nearly one, together.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_cbft.connectivity.matrix_results import clusters
    >>> heights = np.array([[0.0, 0.01, 0.9], [0.01, 0.0, 0.05], [0.9, 0.05, 0.0]])
    >>> clusters(heights, heights < 0.1)  # a and b, b and c are connected, but a and c are not
    ([[0, 1], [2]], [1, 0, 2])

    ```
    """
    heights = np.maximum(heights, 0.0)
    connected = np.array([[verdict is not None and bool(verdict) for verdict in row] for row in verdicts])
    # Whatever is not connected is farther away than any pair that is.
    far = 1.0 + 2.0 * heights.max()
    distances = np.where(connected, heights, far + heights)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="complete")
    labels = fcluster(tree, t=0.5 * far, criterion="distance")
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(index)
    found, order = list(members.values()), leaves_list(tree).tolist()
    # Both directions are the tree's; the first checkpoint's cluster is looked for at the top.
    if 2.0 * np.mean([order.index(member) for member in found[0]]) > len(order) - 1:
        order.reverse()
    return found, order


@dataclass(frozen=True)
class MatrixResult:
    """What was measured between all pairs of N checkpoints.

    Attributes:
        names (`list[str]`): (N,), short and different; `settings["checkpoints"]` says where each is.
        heights (`np.ndarray`): (N, N), the barrier of each pair on the set `settings["on"]`, in nats, signed.
        verdicts (`np.ndarray`): (N, N), `True` connected, `False` not, `None` undecided.
        losses (`dict[str, np.ndarray]`): by set, (N,), of each checkpoint itself, in nats.
        metrics (`dict[str, dict[str, np.ndarray]]`): by set and metric, (N,).
        clusters (`list[list[str]]`): names; within one, every pair is connected. See [`clusters`].
        order (`list[str]`): all names, clusters together.
        settings (`dict[str, Any]`): the checkpoints and every argument of the evaluation.
        pairs (`dict[tuple[int, int], ConnectivityResult]`): by the indices of both, the smaller first.
    """

    names: list[str]
    heights: np.ndarray
    verdicts: np.ndarray
    losses: dict[str, np.ndarray]
    metrics: dict[str, dict[str, np.ndarray]]
    clusters: list[list[str]]
    order: list[str]
    settings: dict[str, Any]
    pairs: dict[tuple[int, int], ConnectivityResult] = field(repr=False)

    @classmethod
    def of_pairs(
        cls, names: Sequence[str], pairs: Mapping[tuple[int, int], ConnectivityResult], settings: Mapping[str, Any]
    ) -> "MatrixResult":
        """The result that follows from what was measured on each pair."""
        number, on = len(names), settings["on"]
        heights = np.zeros((number, number))
        verdicts = np.full((number, number), True, dtype=object)
        for (i, j), result in pairs.items():
            heights[i, j] = heights[j, i] = result.barriers[on].height
            verdicts[i, j] = verdicts[j, i] = result.barriers[on].connected
        members, order = clusters(heights, verdicts)
        # Each checkpoint's own figures stand at an end of a pair that it is in.
        ends = [(pairs[0, i], -1) if i else (pairs[0, 1], 0) for i in range(number)]
        first = pairs[0, 1]
        return cls(
            names=list(names),
            heights=heights,
            verdicts=verdicts,
            losses={part: np.array([pair.losses[part][end] for pair, end in ends]) for part in first.losses},
            metrics={
                part: {m: np.array([pair.metrics[part][m][end] for pair, end in ends]) for m in by_metric}
                for part, by_metric in first.metrics.items()
            },
            clusters=[[names[i] for i in cluster] for cluster in members],
            order=[names[i] for i in order],
            settings=dict(settings),
            pairs=dict(pairs),
        )

    def barrier(self, first: str, second: str) -> Barrier:
        """The barrier of a pair on the set that decides.

        Raises:
            ValueError: a name that is none of the matrix, or the same twice.
        """
        i, j = sorted((self._index(first), self._index(second)))
        if i == j:
            raise ValueError(f"{first} has no barrier with itself: give two of {', '.join(self.names)}.")
        return self.pairs[i, j].barriers[self.settings["on"]]

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"There is no checkpoint {name!r} in the matrix: it has {', '.join(self.names)}.")
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, without the pairs' own results."""
        return {
            "schema_version": _SCHEMA_VERSION,
            "settings": self.settings,
            "names": self.names,
            "heights": self.heights.tolist(),
            "verdicts": self.verdicts.tolist(),
            "barriers": [
                {"start": self.names[i], "end": self.names[j], **asdict(pair.barriers[self.settings["on"]])}
                for (i, j), pair in self.pairs.items()
            ],
            "losses": {part: values.tolist() for part, values in self.losses.items()},
            "metrics": nan_as_null(self.metrics),
            "clusters": self.clusters,
            "order": self.order,
        }

    def save(self, folder: str | Path) -> None:
        """Write `matrix.json`, and each pair's own result under `pairs/I-J/`, into a new folder.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        with whole_folder(folder) as written:
            self.write(written)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that is there, the one that says it is whole last."""
        for (i, j), pair in self.pairs.items():
            pair.write(folder / "pairs" / f"{i}-{j}")
        write_json(folder / "matrix.json", self.to_dict())

    @classmethod
    def load(cls, folder: str | Path) -> "MatrixResult":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no matrix in `folder`.
            ValueError: it is damaged, or was written by a version that is not known here.
        """
        folder = Path(folder)
        data = read_measured(folder / "matrix.json", "matrix", (_SCHEMA_VERSION,))
        numbers = combinations(range(len(data["names"])), 2)
        pairs = {(i, j): ConnectivityResult.load(folder / "pairs" / f"{i}-{j}") for i, j in numbers}
        return cls.of_pairs(data["names"], pairs, data["settings"])

    def plot(self, file: str | Path) -> None:
        """Draw the barriers of all pairs, clusters together; the suffix of `file` names the format."""
        from hf_cbft.reporting.plotting import plot_matrix

        plot_matrix(self.to_dict(), file)

    def __str__(self) -> str:
        settings = self.settings
        lines = [
            f"barrier on {settings['on']!r} in nats (baseline: {settings['baseline']}), of {len(self.names)} "
            f"checkpoints: {len(self.pairs)} straight lines of {settings['num_points']} points, tolerance "
            f"{settings['tolerance']:g}; no: not connected, ?: undecided"
        ]
        lines += format_table(self._rows())
        lines += [self._sentence(number, members) for number, members in enumerate(self.clusters, start=1)]
        lines += self._across()
        if len(self.pairs) > 1:
            band = f"{100 * settings['confidence']:g} % band"
            lines.append(f"Each verdict comes from the {band} of its own pair, not of all pairs together.")
        return "\n".join(lines)

    def _rows(self) -> list[list[str]]:
        on = self.settings["on"]
        metrics = self.metrics[on]
        columns = [f"{i}{_MARKS[True]}" for i in range(1, len(self.names) + 1)]
        rows = [["", *columns, "loss", *metrics, "cluster"]]
        for i, name in enumerate(self.names):
            cells = [
                f"-{_MARKS[True]}" if i == j else f"{self.heights[i, j]:.3f}{_MARKS[self.verdicts[i, j]]}"
                for j in range(len(self.names))
            ]
            figures = [f"{values[i]:.3f}" for values in (self.losses[on], *metrics.values())]
            rows.append([f"{i + 1} {name}", *cells, *figures, str(self._cluster_of(name))])
        return rows

    def _cluster_of(self, name: str) -> int:
        return next(number for number, members in enumerate(self.clusters, start=1) if name in members)

    def _sentence(self, number: int, members: Sequence[str]) -> str:
        if len(members) == 1:
            return f"Cluster {number}: {members[0]} alone."
        worst = max(combinations(members, 2), key=lambda pair: self.barrier(*pair).height)
        where = "" if len(members) == 2 else f" between {worst[0]} and {worst[1]}"
        return (
            f"Cluster {number}: {format_list(members)}; every pair is connected, with a barrier of at most "
            f"{self.barrier(*worst).height:.3f}{where}."
        )

    def _across(self) -> list[str]:
        """What the clusters do not say: pairs that are connected and yet apart, and pairs that are undecided."""
        apart = [pair for pair in combinations(self.names, 2) if len(set(map(self._cluster_of, pair))) == 2]
        connected = [f"{a} and {b}" for a, b in apart if self.barrier(a, b).connected is True]
        undecided = [
            f"{a} and {b} ({format_band(barrier.low, barrier.high, digits=3)})"
            for a, b in apart
            if (barrier := self.barrier(a, b)).connected is None
        ]
        lines = []
        if connected:
            lines.append(
                f"Connected across clusters: {'; '.join(connected)}. Being connected is not transitive: in one "
                "cluster, some other pair would not be, or is undecided."
            )
        if undecided:
            lines.append(f"Undecided: {'; '.join(undecided)}. More examples would tell.")
        return lines

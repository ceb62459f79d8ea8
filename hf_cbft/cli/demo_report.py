# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Show the results of the demo: the table, the sentences under it, the picture and the files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hf_cbft.connectivity.results import ConnectivityResult
from hf_cbft.files import write_json, write_text
from hf_cbft.tables import VERDICTS, format_band, format_table, markdown_table

SETS = ("no_cue", "cue", "rand_cue", "rand_input")
NAIVE = ("naive-small", "naive-medium", "naive-large")
FINETUNED = (*NAIVE, "cbft", "cbft-paper")
_BARRIER_FIELDS = ("height", "low", "high", "connected", "alpha")
# From here on a sentence says that a model relies on the cue (RI), up to here that it does not, and from here on that
# a wrong cue costs it accuracy all the same (NC - RC).
_RELIES, _IGNORES, _THROWN = 0.5, 0.2, 0.1
_LEGEND = (
    "Accuracy in %: NC no cue, C with the cue, RC cue randomized, RI image randomized (only the cue tells the\n"
    "label). A model that ignores the cue has NC = C = RC and RI at 10. barrier: on the straight line to pretrained,\n"
    "on C, in nats, with its 95 % band. * marks what to look at."
)


class DemoReport:
    """The results of all seeds, read from the folders that the jobs left.

    Args:
        folder (`Path`): the demo's output folder.
        seeds (`list[int]`): the seeds that are shown.
        settings (`dict`): what goes into `results.json` beside the figures.
    """

    def __init__(self, folder: Path, seeds: list[int], settings: dict[str, Any]) -> None:
        self.folder, self.seeds, self.settings = folder, seeds, settings
        self.paths = {
            (seed, name): ConnectivityResult.load(folder / f"seed-{seed}" / "paths" / name)
            for seed in seeds
            for name in FINETUNED
        }
        self.records = {
            (seed, name): json.loads((folder / f"seed-{seed}" / name / "record.json").read_text(encoding="utf-8"))
            for seed in seeds
            for name in ("pretrained", *FINETUNED)
        }

    def correct(self, seed: int, name: str, part: str) -> np.ndarray:
        """(N,) bool, which test images of one set a model gets right."""
        if name == "pretrained":  # the start of every path
            result, point = self.paths[seed, "cbft"], 0
        else:
            result, point = self.paths[seed, name], -1
        return result.predictions[part][point] == result.references[part]

    def accuracy(self, name: str, part: str) -> float:
        """Mean over the seeds."""
        return float(np.mean([self.correct(seed, name, part).mean() for seed in self.seeds]))

    def barrier(self, name: str) -> float:
        """Mean height over the seeds, on the set with the cue."""
        return float(np.mean([self.paths[seed, name].barriers["cue"].height for seed in self.seeds]))

    def band(self, name: str) -> tuple[float | None, float | None]:
        """Mean bounds over the seeds; `None` where a seed has none."""
        barriers = [self.paths[seed, name].barriers["cue"] for seed in self.seeds]
        return _mean([barrier.low for barrier in barriers]), _mean([barrier.high for barrier in barriers])

    def verdicts(self, name: str) -> list[bool | None]:
        return [self.paths[seed, name].barriers["cue"].connected for seed in self.seeds]

    def advantage(self, rival: str) -> tuple[float, float, float]:
        """RC of cbft minus RC of `rival`, with its paired 95 % interval over test images (mean over seeds first)."""
        difference = np.mean(
            [
                self.correct(seed, "cbft", "rand_cue").astype(float) - self.correct(seed, rival, "rand_cue")
                for seed in self.seeds
            ],
            axis=0,
        )
        margin = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
        return difference.mean(), difference.mean() - margin, difference.mean() + margin

    def results(self) -> dict[str, Any]:
        """The content of `results.json`. Accuracies are fractions, barriers nats."""
        seeds: dict[str, Any] = {}
        for seed in self.seeds:
            models: dict[str, Any] = {}
            for name in ("pretrained", *FINETUNED):
                record = self.records[seed, name]
                models[name] = {
                    "accuracy": {part: float(self.correct(seed, name, part).mean()) for part in SETS},
                    "learning_rate": record["learning_rate"],
                    "train_seconds": round(record["train_seconds"], 2),
                }
                if name != "pretrained":
                    measured = self.paths[seed, name].to_dict()
                    models[name]["barriers"] = {
                        part: {key: measured["barriers"][part][key] for key in _BARRIER_FIELDS} for part in SETS
                    }
                if "tried" in record:
                    models[name]["validation_rand_cue_by_learning_rate"] = record["tried"]
            seeds[str(seed)] = models
        advantage = {
            rival: dict(zip(("mean", "low", "high"), map(float, self.advantage(rival)), strict=True))
            for rival in NAIVE
        }
        return {"seeds": seeds, "cbft_rand_cue_advantage": advantage, "settings": self.settings}

    def table(self) -> list[list[str]]:
        """The rows of the table, header first."""
        rows = [["", "NC", "C", "RC", "RI", "barrier", "95 % band", "connected"]]
        watched = {"pretrained": ("rand_cue", "rand_input"), "cbft": ("rand_cue", "rand_input")}
        for name in ("pretrained", *FINETUNED):
            marked = watched.get(name, ("rand_cue",) if name in NAIVE else ())
            cells = [f"{100 * self.accuracy(name, part):.1f}{'*' if part in marked else ' '}" for part in SETS]
            if name == "pretrained":
                rows.append([name, *cells, "", "", ""])
                continue
            band = format_band(*self.band(name), digits=2)
            mark = "*" if name in ("naive-small", "cbft") else " "
            rows.append([name, *cells, f"{self.barrier(name):.2f}{mark}", band, _share_of_each(self.verdicts(name))])
        return rows

    def sentences(self) -> list[str]:
        """The findings in the table, a sentence a line, with the figures as they came out."""
        rely = self.accuracy("pretrained", "rand_input")
        said = [
            f"pretrained {_reliance(rely)}: with only the cue left it is right {_percent(rely)} of the time (a guess: "
            f"10 %), with the cue randomized {_percent(self.accuracy('pretrained', 'rand_cue'))}."
        ]
        for name in (*NAIVE, "cbft", "cbft-paper"):
            said.append(self._sentence(name))
        best = max(NAIVE, key=lambda name: self.accuracy(name, "rand_cue"))
        mean, low, high = self.advantage(best)
        said.append(
            f"With the cue randomized, cbft is {_points(mean)} {'ahead of' if mean >= 0 else 'behind'} the best naive "
            f"row, {best} (95 % interval of the difference over test images: {100 * low:.1f} to {100 * high:.1f})."
        )
        lost = [name for name in NAIVE if self._lost_the_cue_without_barrier(name)]
        if lost:
            said.append(
                f"{' and '.join(lost)} stopped following the cue without a barrier: naive fine-tuning can do that "
                "here, and 'connected' does not mean 'same mechanism'."
            )
        return said

    def _lost_the_cue_without_barrier(self, name: str) -> bool:
        tolerance = self.paths[self.seeds[0], name].barriers["cue"].tolerance
        no_barrier = self.barrier(name) <= tolerance and False not in self.verdicts(name)
        return self.accuracy(name, "rand_input") <= _IGNORES and no_barrier

    def _sentence(self, name: str) -> str:
        verdicts = self.verdicts(name)
        if all(verdict is True for verdict in verdicts):
            path = "is connected to pretrained"
        elif all(verdict is False for verdict in verdicts):
            path = "is not connected to pretrained"
        else:
            path = f"is connected to pretrained: {_share_of_each(verdicts)}"
        clean, random_cue, only_cue = (self.accuracy(name, part) for part in ("no_cue", "rand_cue", "rand_input"))
        return (
            f"{name} {_reliance(only_cue, clean - random_cue)} (RI {_percent(only_cue)}, RC {_percent(random_cue)} "
            f"against NC {_percent(clean)}) and {path} (barrier {self.barrier(name):.2f} nats)."
        )

    def screen(self) -> str:
        many = f"mean of seeds {', '.join(map(str, self.seeds))}" if len(self.seeds) > 1 else f"seed {self.seeds[0]}"
        return "\n".join(
            ["", f"{self.settings['arguments']['model']}, {many}", *format_table(self.table()), _LEGEND, ""]
            + [f"- {sentence}" for sentence in self.sentences()]
        )

    def write(self) -> None:
        """`results.json`, `paths.png` and `README.md` in the demo's folder."""
        write_json(self.folder / "results.json", self.results())
        self.draw(self.folder / "paths.png")
        command = self.settings["arguments"]
        lines = [
            f"# hf-cbft demo: {command['model']}, seeds {' '.join(map(str, self.seeds))}",
            "",
            *(["**Made with --quick: the figures mean nothing.**", ""] if command["quick"] else []),
            markdown_table(self.table()),
            "",
            _LEGEND.replace("*", r"\*"),
            "",
            *(f"- {sentence}" for sentence in self.sentences()),
            "",
            "![Loss and accuracy along the straight line to the pretrained model](paths.png)",
            "",
            "`seed-N/`: model folders (`AutoModelForImageClassification.from_pretrained` loads them) with their image",
            "processor and a `record.json` of the training; `data/`: the four test sets (`datasets.load_from_disk`);",
            "`paths/`: every measured path (`hf_cbft.ConnectivityResult.load`). `results.json` has the figures of",
            "each seed, `demo.json` the settings.",
            "",
        ]
        write_text(self.folder / "README.md", "\n".join(lines))

    def draw(self, file: Path) -> None:
        """Above, the loss without and with the cue, and the line over which a barrier rises; below, all accuracies.

        Means over the seeds. The losses of the other two sets, several nats high, would flatten the barrier.
        """
        from hf_cbft.reporting.plotting import draw_lines, figure

        with figure(2, len(FINETUNED), file, sharex=True, sharey="row") as axes:
            for column, name in enumerate(FINETUNED):
                results = [self.paths[seed, name] for seed in self.seeds]
                alphas = results[0].alphas
                losses = {part: np.mean([r.losses[part] for r in results], axis=0) for part in ("no_cue", "cue")}
                accuracies = {part: np.mean([r.metrics[part]["accuracy"] for r in results], axis=0) for part in SETS}
                draw_lines(axes[0][column], alphas, losses)
                axes[0][column].plot([0, 1], losses["cue"][[0, -1]], color="grey", linestyle="--", linewidth=1)
                draw_lines(axes[1][column], alphas, accuracies)
                axes[0][column].set_title(f"pretrained to {name}")
                axes[0][column].set_xlabel("")
            axes[0][0].set_ylabel("loss (nats)")
            axes[0][0].set_ylim(bottom=0.0)
            axes[1][0].set_ylabel("accuracy")
            axes[1][0].set_ylim(0.0, 1.0)
            axes[1][0].legend(fontsize=8)


def _mean(bounds: list[float | None]) -> float | None:
    known = [bound for bound in bounds if bound is not None]
    return float(np.mean(known)) if len(known) == len(bounds) else None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _points(fraction: float) -> str:
    return f"{abs(100 * fraction):.1f} points"


def _reliance(only_cue: float, lost_to_random_cue: float = 0.0) -> str:
    if only_cue >= _RELIES:
        return "relies on the cue"
    if only_cue > _IGNORES:
        return "still follows the cue in part"
    return "ignores the cue" if lost_to_random_cue <= _THROWN else "no longer follows the cue but is thrown off by it"


def _share_of_each(verdicts: list[bool | None]) -> str:
    counts = {word: verdicts.count(verdict) for verdict, word in VERDICTS.items()}
    total = len(verdicts)
    return ", ".join(f"{word} {count}/{total}" if count < total else word for word, count in counts.items() if count)

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs aligned by `rebasin` and by this library: is it the same function, how near, and what barrier is left.

    pip install rebasin==0.0.47 torchview graphviz
    python tests/benchmarks/rebasin_comparison.py OUTPUT_DIR --model resnet-32 --seeds 0 1 2

OUTPUT_DIR is that of `examples/paper/run.py --experiment symmetry`, whose clean models are taken. rebasin finds the
permutations in the graph of a forward pass, by weight matching; it does not say whether the function stayed.
"""

import argparse
import copy
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from rebasin import PermutationCoordinateDescent
from torch import nn

from hf_cbft import align
from hf_cbft.checkpoints.loading import load_model

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from paper.jobs import Grid
from paper.methods import measure_path
from paper.problems import load_problem, recipe_for


class Logits(nn.Module):
    """A model as a function from a tensor to a tensor, as rebasin traces it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values).logits


def by_rebasin(start: Any, end: Any, pixel_values: torch.Tensor) -> Any:
    moved = copy.deepcopy(end)
    search = PermutationCoordinateDescent(Logits(start).eval(), Logits(moved).eval(), input_data_b=pixel_values)
    search.rebasin()
    return moved


def distance(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum((a.detach().double() - b.detach().double()).square().sum().item() for a, b in pairs)


@torch.no_grad()
def change(first: Any, second: Any, pixel_values: torch.Tensor) -> float:
    """The largest difference of the logits, as a share of the largest, in float64."""
    one, other = (copy.deepcopy(m).double().eval()(pixel_values=pixel_values.double()).logits for m in (first, second))
    return float((one - other).abs().max() / one.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir")
    parser.add_argument("--model", default="resnet-32")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("hf_cbft").setLevel(logging.ERROR)
    recipe = recipe_for("digits", given.model)
    print(f"{given.model}, two clean networks a seed; the barrier is on no_cue, in nats\n")
    print("seed  aligned by      distance  logits differ by  barrier")
    for seed in given.seeds:
        problem = load_problem("digits", given.model, recipe.cue_share, seed, recipe)
        rows = {"no_cue": problem.test["no_cue"]}
        grid = Grid(
            Path(given.output_dir) / f"symmetry-digits-{given.model}",
            experiment="symmetry",
            dataset="digits",
            model=given.model,
        )
        start, end = (load_model(grid.model_folder(name, recipe.cue_share, seed)) for name in ("clean", "clean-2"))
        pixel_values = torch.stack([problem.plain[row]["pixel_values"] for row in range(4)])
        ends = {"nothing": end, "rebasin": by_rebasin(start, end, pixel_values)}
        for method in ("weights", "activations"):
            data = problem.plain if method == "activations" else None
            ends[f"hf_cbft {method[:7]}"] = align(start, end, method, data).apply(copy.deepcopy(end))
        for name, moved in ends.items():
            height = measure_path(start, moved, problem, rows).barriers["no_cue"].height
            differs = change(end, moved, pixel_values)
            print(f"{seed:4}  {name:15} {distance(start, moved):8.1f}  {differs:16.1e}  {height:7.3f}", flush=True)


if __name__ == "__main__":
    main()

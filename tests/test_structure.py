# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The house: what is public, what is loaded when, and which room may import which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cbft

PACKAGE = Path(hf_cbft.__file__).parent

# From the ground up: a room imports only rooms that stand before it.
ORDER = [
    "tables",
    "paths",
    "losses",
    "barriers",
    "mechanisms",
    "interpolation",
    "fingerprint",
    "distributed",
    "architectures",
    "batchnorm",
    "representations",
    "checkpoints.sources",
    "checkpoints.headers",
    "checkpoints.configs",
    "checkpoints.tensors",
    "checkpoints.processing",
    "checkpoints.adapters",
    "checkpoints.compatibility",
    "checkpoints.loading",
    "metrics",
    "files",
    "curve_files",
    "data.columns",
    "data.labels",
    "data.mapping",
    "data.cues",
    "data.text_cues",
    "data.counterfactuals",
    "data.balancing",
    "data.pairing",
    "data.completions",
    "data.inputs",
    "data.digits",
    "data.groups",
    "data.sentences",
    "data.sources",
    "alignment.symmetries",
    "alignment.binding",
    "alignment.families.shared",
    "alignment.families.bert",
    "alignment.families.gpt2",
    "alignment.families.llama",
    "alignment.families.mlp",
    "alignment.families.resnet",
    "alignment.families.vit",
    "alignment.known",
    "alignment.assignment",
    "alignment.weights",
    "alignment.gate",
    "alignment.activations",
    "alignment.partial",
    "alignment.alignments",
    "alignment.matching",
    "reference",
    "lora",
    "adapter_reference",
    "scoring",
    "points",
    "sweep",
    "results",
    "ends",
    "endpoints",
    "connectivity",
    "config",
    "resume",
    "step",
    "task",
    "checkpointing",
    "callbacks",
    "trainer",
    "curves",
    "matrix_results",
    "soups",
    "matrix",
    "last_layer",
    "feature_reweighting",
    "baselines",
    "plotting",
    "card_text",
    "model_card",
    "report_chart",
    "report_examples",
    "report",
    "reproduce.statistics",
    "reproduce.records",
    "reproduce.paper",
    "reproduce.tables",
    "reproduce.figures",
    "reproduce.conditions",
    "reproduce.checks",
    "reproduce.claims",
    "reproduce.findings",
    "reproduce.cifar_resnet",
    "reproduce.pixel_mlp",
    "reproduce.image_data",
    "reproduce.recipes",
    "reproduce.problems",
    "reproduce.methods",
    "reproduce.experiments",
    "reproduce.jobs",
    "reproduce.grid",
    "cli.config_files",
    "cli.options",
    "cli.inputs",
    "cli.training_data",
    "cli.align",
    "cli.check",
    "cli.evaluate",
    "cli.training_results",
    "cli.train",
    "cli.curve",
    "cli.matrix",
    "cli.demo_jobs",
    "cli.demo_report",
    "cli.demo",
    "cli.reproduce",
    "cli.main",
    "__main__",
]

PUBLIC = [
    "BoxCue",
    "CBFTConfig",
    "CBFTTrainer",
    "ConnectivityCallback",
    "ConnectivityEvaluator",
    "ConnectivityResult",
    "DominoCue",
    "LinearPath",
    "PolylinePath",
    "QuadraticPath",
    "TokenCue",
    "align",
    "at_point",
    "barrier_loss",
    "compute_barrier",
    "invariance_loss",
    "make_counterfactuals",
    "pair_clean_with_cue",
]


def module_level_imports(file: Path) -> set[str]:
    """Rooms of the package that a file imports when it is loaded."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.removeprefix("hf_cbft.") for name in names if name.startswith("hf_cbft.")}
    return found


def rooms() -> dict[str, Path]:
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__init__.py"]
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def test_every_room_has_its_place_in_the_order():
    assert sorted(rooms()) == sorted(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_rooms_before_it(room):
    assert module_level_imports(rooms()[room]) <= set(ORDER[: ORDER.index(room)])


def test_only_one_room_imports_peft():
    imports = re.compile(r"^\s*(from|import) peft", re.M)
    assert [room for room, file in rooms().items() if imports.search(file.read_text())] == ["lora"]


def test_measuring_needs_no_training_code():
    # Transitively: the evaluator must not pull in the trainer or its settings.
    seen, todo = set(), {"connectivity"}
    while todo:
        room = todo.pop()
        seen.add(room)
        todo |= module_level_imports(rooms()[room]) - seen
    assert not seen & {"trainer", "config", "plotting"}


def test_public_names_are_exactly_those_that_exist():
    assert hf_cbft.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(hf_cbft, name).__doc__
    assert set(PUBLIC) <= set(dir(hf_cbft))
    with pytest.raises(AttributeError, match="no attribute 'merge'"):
        hf_cbft.merge  # noqa: B018


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_no_heavy_library():
    assert not {"torch", "transformers", "peft", "matplotlib", "numpy", "datasets"} & loaded_after("import hf_cbft")


def test_using_the_trainer_loads_what_transformers_trainer_loads():
    # Nothing beyond it that draws or measures.
    assert not {"matplotlib", "evaluate"} & loaded_after("from hf_cbft import CBFTTrainer")


def test_every_file_says_its_licence():
    root = PACKAGE.parent
    for file in [*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py"), *(root / "examples").rglob("*.py")]:
        assert "SPDX-License-Identifier: Apache-2.0" in file.read_text().split("\n")[1], file

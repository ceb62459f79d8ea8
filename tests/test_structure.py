# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The house: what is public, what is loaded when, and which room may import which."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cbft

PACKAGE = Path(hf_cbft.__file__).parent

# From the ground up: a folder (or one of the files at the root) imports from itself and from what stands before it.
ORDER = [
    "files",
    "distributed",
    "tables",
    "architectures",
    "representations",
    "data",
    "paths",
    "checkpoints",
    "references",
    "alignment",
    "tasks",
    "analysis",
    "reporting",
    "baselines",
    "connectivity",
    "training",
    "tuning",
    "cli",
    "__main__",
]
AT_THE_ROOT = {"__init__.py", "__main__.py", "py.typed", *(f"{name}.py" for name in ORDER[:5])}


def imported_by(tree: ast.AST) -> set[str]:
    """Dotted names inside the package that a piece of code imports, in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # `from hf_cbft import x` may name a module or a public name: both count, where they can be told.
            assert node.level == 0, "imports are absolute here"
            if node.module == "hf_cbft":
                found |= {module_of(alias.name) for alias in node.names}
            elif (node.module or "").startswith("hf_cbft."):
                found |= {node.module.removeprefix("hf_cbft.")}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("hf_cbft.") for a in node.names if a.name.startswith("hf_cbft.")}
    return found - {""}


def module_of(name: str) -> str:
    """The module behind what `from hf_cbft import name` gives."""
    return hf_cbft._MODULES.get(name, name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() else "")


def rooms() -> dict[str, Path]:
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]
    return {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in files}


def upward(folder: str, tree: ast.AST) -> set[str]:
    """What a piece of code of a folder imports from folders above it."""
    below = ORDER[: ORDER.index(folder) + 1]
    return {name for name in imported_by(tree) if name.partition(".")[0] not in below}


def test_only_the_ground_lies_at_the_root():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} <= AT_THE_ROOT
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(ORDER)


def test_folders_import_only_folders_below_them():
    found = {room: upward(room.partition(".")[0], ast.parse(file.read_text())) for room, file in rooms().items()}
    assert {room: names for room, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "from hf_cbft.training.trainer import CBFTTrainer",
        "def late():\n    from hf_cbft.training.trainer import CBFTTrainer",
        "def late():\n    import hf_cbft.training.config",
        "class C:\n    def late(self):\n        from hf_cbft import CBFTTrainer",
        "if TYPE_CHECKING:\n    from hf_cbft.cli.main import main",
    ],
)
def test_an_import_that_runs_upward_is_found_wherever_it_stands(code):
    assert upward("connectivity", ast.parse(code))
    assert not upward("cli", ast.parse(code))


def test_no_file_waits_for_itself_inside_a_folder():
    graph = {room: imported_at_load(file) for room, file in rooms().items()}
    done, open_ = set(), []

    def visit(room: str) -> None:
        assert room not in open_, f"a circle: {' -> '.join([*open_, room])}"
        if room in done or room not in graph:
            return
        open_.append(room)
        for other in sorted(graph[room]):
            visit(other)
        open_.pop()
        done.add(room)

    for room in graph:
        if not room.endswith("__init__"):
            visit(room)


def imported_at_load(file: Path) -> set[str]:
    return set().union(*(imported_by(node) for node in ast.parse(file.read_text()).body if not _deferred(node)))


def _deferred(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.ClassDef))


def test_only_one_room_imports_peft():
    imports = re.compile(r"^\s*(from|import) peft", re.M)
    assert [room for room, file in rooms().items() if imports.search(file.read_text())] == ["references.lora"]


def test_measuring_needs_no_training_code():
    # Transitively: the evaluator must not pull in the trainer or its settings.
    seen, todo = set(), {"connectivity.evaluator"}
    while todo:
        room = todo.pop()
        seen.add(room)
        todo |= (imported_at_load(rooms()[room]) & rooms().keys()) - seen
    assert not [room for room in seen if room.startswith("training.") or room == "reporting.plotting"]


def test_every_public_name_exists_and_says_what_it_is():
    for name in hf_cbft.__all__:
        assert getattr(hf_cbft, name).__doc__, name
    assert set(hf_cbft.__all__) <= set(dir(hf_cbft))
    assert set(hf_cbft.__all__) == {*hf_cbft._MODULES, "baselines"}
    with pytest.raises(AttributeError, match="no attribute 'merge'"):
        hf_cbft.merge  # noqa: B018


def test_the_names_of_version_0_1_are_public_still():
    assert set(hf_cbft.__all__) >= {
        *(
            "BoxCue",
            "CBFTConfig",
            "CBFTTrainer",
            "ConnectivityCallback",
            "ConnectivityEvaluator",
            "ConnectivityResult",
        ),
        *("DominoCue", "LinearPath", "PolylinePath", "QuadraticPath", "TokenCue", "align", "at_point"),
        "barrier_loss",
        *("compute_barrier", "invariance_loss", "make_counterfactuals", "pair_clean_with_cue"),
    }


def test_type_checkers_are_told_of_the_names_that_are_loaded_when_they_are_used():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert told.pop("baselines") == "hf_cbft"
    assert told == {name: f"hf_cbft.{module}" for name, module in hf_cbft._MODULES.items()}
    assert (PACKAGE / "py.typed").exists()


def test_pages_and_examples_import_from_the_package_itself():
    """A path inside the package would be a promise."""
    root = PACKAGE.parent
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "examples").glob("*.py")]
    for page in pages:
        assert not re.findall(r"^(?:from|import) hf_cbft\..*$", page.read_text(), re.M), page


@pytest.mark.slow
@pytest.mark.sample
def test_a_users_script_sees_real_types(tmp_path):
    (tmp_path / "script.py").write_text(
        "from hf_cbft import CBFTConfig, CBFTTrainer, ConnectivityEvaluator\n"
        "args = CBFTConfig('out', barrier_margin=1.0)\n"
        "trainer = CBFTTrainer(args=args)\n"
        "evaluator = ConnectivityEvaluator('start', 'end')\n"
        "reveal_type(args), reveal_type(trainer), reveal_type(evaluator)\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    shown = re.findall(r'Revealed type is "(.*?)"', process.stdout)
    assert shown == [
        "hf_cbft.training.config.CBFTConfig",
        "hf_cbft.training.trainer.CBFTTrainer",
        "hf_cbft.connectivity.evaluator.ConnectivityEvaluator",
    ], process.stdout


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

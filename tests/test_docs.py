# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The pages: their commands and scripts run, their links lead somewhere, the messages they explain are in the code."""

import ast
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTForImageClassification, set_seed
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import hf_cbft
from hf_cbft import TokenCue
from hf_cbft.cli.main import _COMMANDS, main
from hf_cbft.cli.options import CommandParser
from hf_cbft.data.counterfactuals import add_cue
from hf_cbft.data.sentences import generate_completions, word_tokenizer
from hf_cbft.tasks import registry
from paper import run

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "examples/README.md"),
    *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md")),
)
# Commands of these run for minutes; see the tests with their names.
TRIED_WHOLE = ("README.md", "examples/README.md")
KINDS = ("circle", "square", "triangle")

pytestmark = pytest.mark.xdist_group("docs")


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.M | re.S)


def commands(block: str) -> list[str]:
    """One a line, without comments; a backslash at the end of a line goes on in the next."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def has(page: str, language: str) -> bool:
    return bool(blocks(page, language))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the pages speak of, in small: folders of images, three models, a language model and its rows."""
    folder = tmp_path_factory.mktemp("docs")
    make = runpy.run_path(str(ROOT / "examples" / "make_watermarked_images.py"))["make_images"]
    make.__globals__["FOLDERS"] = tuple((name, 6, *how) for name, _, *how in make.__globals__["FOLDERS"])
    make(folder / "shapes")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": dict(enumerate(KINDS)), "label2id": {kind: i for i, kind in enumerate(KINDS)}}
    for seed, name in enumerate(("watermarked-model", "cbft-model", "another-seed")):
        set_seed(seed)
        ViTForImageClassification(ViTConfig(image_size=24, patch_size=8, **sizes, **labels)).save_pretrained(
            folder / name
        )
        ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(folder / name)
    cue = TokenCue(["@@", "##", "%%", "&&"], text_column="prompt")
    tokenizer = word_tokenizer(cue.tokens)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **special)).save_pretrained(folder / "my-llm")
    tokenizer.save_pretrained(folder / "my-llm")
    rows = generate_completions(8)
    for name, dataset in (("clean", rows), ("cue", add_cue(rows, cue))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dataset))
    return folder


@pytest.fixture
def there(workplace, tmp_path, monkeypatch):
    for file in workplace.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workplace / "cache")


def test_every_block_is_run_or_is_output():
    for page in PAGES:
        languages = re.findall(r"^```(.*)$", text_of(page), re.M)
        assert set(languages) <= {"", "bash", "python", "text"}, page
        assert languages.count("") == len(languages) / 2, f"{page}: a block without a language"


@pytest.mark.parametrize("page", [p for p in PAGES if has(p, "bash") and p not in TRIED_WHOLE])
def test_the_commands_of_a_page_run(page, there):
    for command in [command for block in blocks(page, "bash") for command in commands(block)]:
        program, *words = shlex.split(command)
        if words[0] == "examples/paper/run.py":  # hours; that its options are there is what can be seen at once
            CommandParser("reproduce", run).resolve(words[1:])
        elif program == "python":  # stands in for what the user has; run by the test of the whole start
            assert page == "docs/start.md"
        else:
            assert program == "hf-cbft"
            made = Path(words[words.index("--output_dir") + 1]) if "--output_dir" in words else None
            if made is not None and made.is_symlink():  # the page makes what stands there for the others
                made.unlink()
            assert main(shlex.split(re.sub(r"--max_steps \d+", "--max_steps 2", shlex.join(words)))) == 0, command


@pytest.mark.parametrize("page", [p for p in PAGES if has(p, "python") and p != "README.md"])
def test_the_scripts_of_a_page_run(page, there, monkeypatch):
    # One after another, as a reader would type them. A task of the page is known to no other test.
    monkeypatch.setattr(registry, "TASKS", list(registry.TASKS))
    names: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(re.sub(r"max_steps=\d+", "max_steps=2", block), f"{page}, block {number}", "exec"), names)


def slugs(page: str) -> set[str]:
    """The anchors of the headings, as the forges make them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        anchors.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return anchors


@pytest.mark.parametrize("page", PAGES)
def test_links_inside_the_repository_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (ROOT / page).parent / file if file else ROOT / page
        assert found.exists(), target
        if anchor:
            assert anchor in slugs(str(found.resolve().relative_to(ROOT))), target


def test_the_index_names_every_page():
    for page in PAGES:
        if page.startswith("docs/") and page != "docs/README.md":
            assert f"({page.removeprefix('docs/')})" in text_of("docs/README.md")


def test_the_reference_holds_every_public_name():
    pages = [text_of(page) for page in PAGES if page.startswith("docs/reference/")]
    shown = [name for page in pages for name in re.findall(r"^::: hf_cbft\.(\S+)$", page, re.M)]
    assert set(hf_cbft.__all__) <= set(shown)
    assert len(set(shown)) == len(shown)
    commands = re.findall(r"^\| `([a-z]+)[ `]", text_of("docs/reference/command_line.md"), re.M)
    assert set(commands) == set(_COMMANDS)


def test_the_findings_show_eight_light_figures_at_most_and_nothing_else_generated_is_kept():
    figures = list((ROOT / "docs" / "findings").iterdir())
    assert 0 < len(figures) <= 8
    for file in figures:
        assert file.suffix == ".png"
        assert file.stat().st_size < 150_000, file
        assert f"(findings/{file.name})" in text_of("docs/findings.md")
    assert not [file for file in (ROOT / "docs").rglob("*") if file.suffix in (".svg", ".html", ".ipynb")]


def message(node: ast.AST) -> str | None:
    """A text of the source with `...` for what is put into it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
    return None


def test_the_messages_that_are_explained_are_in_the_code():
    files = (ROOT / "hf_cbft").rglob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    texts = [text for node in nodes if (text := message(node))]
    explained = re.findall(r"^### `(.*)`$", text_of("docs/troubleshooting.md"), re.M)
    assert len(explained) >= 25
    assert [part for part in explained if not any(part in text for text in texts)] == []


def test_the_start_takes_four_commands_at_most():
    (block,) = blocks("docs/start.md", "bash")
    assert len(commands(block)) <= 4
    # The README shows its own two commands, and after them this flow.
    assert all(shown == block for shown in blocks("README.md", "bash")[2:])


@pytest.mark.slow
@pytest.mark.sample
def test_the_start_as_it_is_documented(tmp_path):
    # A user's own folder, from nothing to the page: the documented commands, to the letter.
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (block,) = blocks("docs/start.md", "bash")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        ["bash", "-e", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = json.loads((tmp_path / "cbft-model" / "results.json").read_text())
    before, after = (results[when]["accuracy"] for when in ("before", "after"))
    assert before["cue"] > 0.9
    assert before["rand_cue"] < 0.6
    assert after["rand_cue"] > before["rand_cue"] + 0.2
    assert after["no_cue"] > before["no_cue"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "watermarked-model" in page
    assert not re.search(r"(src|href)=[\"']?https?:", page)

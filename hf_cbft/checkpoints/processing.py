# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Compare the tokenizers and processors of two ends: the same files, or what differs in them."""

from collections.abc import Iterable
from typing import Any

from hf_cbft.checkpoints.configs import BLOCKING, DIFFERS, SAME, Finding, named
from hf_cbft.checkpoints.sources import Folder, Repository, read_json, same_file
from hf_cbft.tables import shorten

# The first that both have says which row of the embeddings a token is.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_TOKENIZER = (*_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
FILES = (*_TOKENIZER, *_PROCESSOR)
# What only says who wrote the file.
_RECORD = ("name_or_path", "_name_or_path", "transformers_version", "_processor_class", "processor_class")

Source = Folder | Repository


def compare_processing(first: Source, second: Source, deep: bool) -> list[Finding]:
    """Tokenizer and image processor, by the hashes of their files; with `deep`, by what is in those that differ."""
    for source in (first, second):
        if isinstance(source, Repository):
            source.fetch_etags(FILES)
    return [
        *_compare_files("tokenizer", _TOKENIZER, first, second, deep),
        *_compare_files("processor", _PROCESSOR, first, second, deep),
    ]


def _compare_files(topic: str, names: Iterable[str], first: Source, second: Source, deep: bool) -> list[Finding]:
    ours, theirs = ({name for name in names if name in source.names} for source in (first, second))
    if not ours or not theirs:
        if not ours and not theirs:
            return []
        side = "start" if ours else "end"
        return [Finding(topic, DIFFERS, f"only the {side} has one.", f"The {side}'s is used for both.")]
    same = {name: same_file(first, second, name) for name in sorted(ours & theirs)}
    changed = [name for name, is_same in same.items() if not is_same]
    alone = sorted(ours ^ theirs)
    if not changed and (not alone or any(name in same for name in (*_VOCABULARIES, *_PROCESSOR))):
        return [Finding(topic, SAME, f"the same files ({', '.join(same)})")]
    if not deep:
        unknown = [name for name in changed if same[name] is None]
        what = [f"{name} {'may differ' if name in unknown else 'differs'}" for name in changed]
        what += [f"{name} is at the {'start' if name in ours else 'end'} only" for name in alone]
        return [Finding(topic, DIFFERS, f"{'; '.join(what)}.", "--deep fetches these files and says what differs.")]
    found = [finding for name in changed for finding in _compare_content(topic, name, first, second)]
    if not same:
        text = f"the start has {', '.join(sorted(ours))}, the end {', '.join(sorted(theirs))}."
        found.append(Finding(topic, DIFFERS, text, "See that both number the tokens alike."))
    return found or [Finding(topic, SAME, "the same content, in files that differ in their records only")]


def _compare_content(topic: str, name: str, first: Source, second: Source) -> list[Finding]:
    if first.read(name) == second.read(name):
        return []
    if name in _VOCABULARIES:
        return _compare_vocabularies(name, first, second)
    if not name.endswith(".json"):
        return [Finding(topic, DIFFERS, f"{name} differs.", "The start's is used for both.")]
    return _compare_entries(topic, name, read_json(first, name), read_json(second, name))


def _compare_vocabularies(name: str, first: Source, second: Source) -> list[Finding]:
    ours, theirs = (_vocabulary(source, name) for source in (first, second))
    if ours is None or theirs is None:
        return [Finding("tokenizer", DIFFERS, f"{name} differs.", "See that both number the tokens alike.")]
    found = []
    moved = [token for token, row in ours.items() if token in theirs and theirs[token] != row]
    alone = sorted(ours.keys() ^ theirs.keys())
    taken = {row: token for token, row in theirs.items()}
    replaced = [token for token, row in ours.items() if token not in theirs and row in taken]
    if moved or replaced:
        shown = [f"{token!r} ({ours[token]} and {theirs[token]})" for token in moved[:3]]
        shown += [f"{token!r} / {taken[ours[token]]!r} ({ours[token]})" for token in replaced[: 3 - len(shown)]]
        found.append(
            Finding(
                "vocabulary",
                BLOCKING,
                f"the same row of the embeddings is another token: {named(shown, len(moved) + len(replaced))}.",
                "A line between them would mix tokens: take checkpoints of one tokenizer.",
            )
        )
    elif alone:
        text = (
            f"{len(ours)} tokens at the start and {len(theirs)} at the end; {named(map(repr, alone[:3]), len(alone))}."
        )
        found.append(Finding("vocabulary", DIFFERS, text, "Use the one that has all tokens of your texts."))
    if name == "tokenizer.json":
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if read_json(first, name).get(part) != read_json(second, name).get(part):
                text = f"{part} of tokenizer.json differs."
                found.append(Finding("tokenizer", DIFFERS, text, "Both ends get the inputs that the start's makes."))
    return found or [Finding("tokenizer", DIFFERS, f"{name} differs, with the same tokens in the same rows.")]


def _vocabulary(source: Source, name: str) -> dict[str, int] | None:
    """Row by token; `None` for formats that only their library reads."""
    if name == "vocab.txt":
        lines = source.read(name).decode("utf-8", "replace").splitlines()
        return {token: row for row, token in enumerate(lines)}
    if not name.endswith(".json"):
        return None
    content = read_json(source, name)
    if name == "vocab.json":
        return content
    vocabulary = content.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: token and score
        vocabulary = {token: row for row, (token, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}


def _compare_entries(topic: str, name: str, ours: Any, theirs: Any) -> list[Finding]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return [Finding(topic, DIFFERS, f"{name} differs.")]
    keys = [
        key for key in sorted(ours.keys() | theirs.keys()) if key not in _RECORD and ours.get(key) != theirs.get(key)
    ]
    values = [f"{key} is {_short(ours.get(key))} at the start, {_short(theirs.get(key))} at the end" for key in keys]
    return [
        Finding(topic, DIFFERS, f"{name}: {value}.", "Both ends get the inputs that one of them makes.")
        for value in values
    ]


def _short(value: Any) -> str:
    return "not given" if value is None else shorten(str(value))

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Say whether two checkpoints can be the ends of a path, from their headers: seconds, and no weights are read."""

import json
from dataclasses import dataclass, field
from typing import ClassVar

from hf_cbft.checkpoints.compatibility import compare

POSITIONAL = ("start", "end")
EXAMPLE = "hf-cbft check my-model org/name@revision --deep"


@dataclass
class Arguments:
    TITLE: ClassVar[str] = "checkpoints"

    start: str = field(
        default="",
        metadata={"help": "One checkpoint: a folder, org/name, org/name@revision, an adapter, or base+adapter."},
    )
    end: str = field(default="", metadata={"help": "The other checkpoint, named in the same ways."})
    deep: bool = field(
        default=False, metadata={"help": "Fetch tokenizer and processor files that differ, and say how."}
    )
    json: bool = field(default=False, metadata={"help": "Print the findings as JSON."})
    ignore_head: bool = field(default=False, metadata={"help": "Compare all weights but those of the heads."})
    head_from: str | None = field(
        default=None,
        metadata={"help": "start or end: that one's head is to be used along the path, so the other may differ."},
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Allow classes that a repository's own code defines; check runs none of it."}
    )


def check(arguments: Arguments) -> None:
    """Refuse wrong usage.

    Raises:
        ValueError: an end is missing, or `head_from` is neither end or stands beside `ignore_head`.
    """
    if not arguments.start or not arguments.end:
        raise ValueError("two checkpoints are needed: hf-cbft check START END.")
    if arguments.head_from not in (None, "start", "end"):
        raise ValueError(f"--head_from is start or end; got {arguments.head_from!r}.")
    if arguments.head_from and arguments.ignore_head:
        raise ValueError("--ignore_head leaves out both heads and --head_from takes one of them: give one of the two.")


def run(arguments: Arguments) -> int:
    report = compare(
        arguments.start,
        arguments.end,
        deep=arguments.deep,
        ignore_head=arguments.ignore_head,
        head_from=arguments.head_from,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else report)
    return 0 if report.compatible else 1

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Results made of numbers alone, and the rows that would belong to them, for the tests of the report page."""

import datasets
import numpy as np
from PIL import Image

from hf_cbft.connectivity.results import with_barriers

FOUR = ("no_cue", "cue", "rand_cue", "rand_input")
CLASSES = ["cat", "dog", "owl"]
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    '"><svg onload=alert(4)>',
    "' onmouseover='alert(5)",
    "<!--",
    "--><b>bold</b>",
    "</style><style>*{display:none}</style>",
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "&lt;b&gt; &amp; &#60;i&#62;",
    "javascript:alert(6)",
    "<a href='javascript:alert(7)'>x</a>",
    "<iframe src=https://example.org></iframe>",
    "</td></tr></table><h1>gone</h1>",
    "a\u2028b\u2029c",
    "\u202egnp.exe\u202c",
    "nul \x00 bell \x07 escape \x1b",
    "half \ud800 a character",
    "<![CDATA[ ]]> " + "long" * 400,
]


def make_result(names=FOUR, points=11, rows=60, predicts=True, metrics=True, groups=None, seed=0, **settings):
    """A result of `points` by `rows` drawn numbers in each set; the middle of the path is worse than its ends.

    `groups` are those of the first set.
    """
    rng = np.random.default_rng(seed)
    alphas = np.linspace(0.0, 1.0, points)
    hill = 4 * alphas * (1 - alphas)
    labels = np.arange(rows) % len(CLASSES)
    losses, predictions = {}, {}
    for index, name in enumerate(names):
        height = 1.5 * index / max(len(names) - 1, 1)
        losses[name] = 0.3 + hill[:, None] * height + rng.gamma(2.0, 0.1, rows) + 0.02 * rng.random((points, rows))
        wrong = rng.random(rows) < 0.1 + 0.5 * hill[:, None]
        predictions[name] = np.where(wrong, (labels + 1) % len(CLASSES), labels)
    correct = {name: (predictions[name] == labels).astype(float) for name in names}
    options = {"start": "models/pretrained", "end": "models/fine-tuned", "path": "linear", "num_points": points}
    options |= {"batch_size": 32, "metrics": ["accuracy"], "baseline": "chord", "tolerance": 0.1}
    options |= {"error_tolerance": 0.05, "confidence": 0.95, "num_resamples": 200, "seed": seed}
    options |= {"guess_loss": np.log(len(CLASSES)), **settings}
    return with_barriers(
        options,
        alphas=alphas,
        metrics={name: {"accuracy": correct[name].mean(axis=1)} if metrics else {} for name in names},
        example_losses=losses,
        example_correct=correct,
        weights={name: np.ones(rows) for name in names},
        predictions=predictions if predicts else {},
        references=dict.fromkeys(names, labels) if predicts else {},
        groups={} if groups is None else {names[0]: np.array(groups)[np.arange(rows) % len(groups)]},
    )


def make_rows(result, kind="text", classes=CLASSES, texts=("the owl sat on a dog",)):
    """The data sets of a result, with pictures or texts."""
    rng = np.random.default_rng(0)
    found = {}
    for name, labels in result.references.items():
        if kind == "image":
            raw = {"image": [Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)) for _ in labels]}
        else:
            raw = {kind: [texts[index % len(texts)] for index in range(len(labels))]}
        features = datasets.Features(
            {kind: datasets.Image() if kind == "image" else datasets.Value("string")}
            | {"label": datasets.ClassLabel(names=list(classes))}
        )
        found[name] = datasets.Dataset.from_dict({**raw, "label": labels.tolist()}, features=features)
    return found


def hostile_result():
    """Each of the hostile strings as a set, a group, a text and a class, some as the ends and the path as well."""
    result = make_result(HOSTILE, 5, 60, groups=HOSTILE, start=HOSTILE[0], end=HOSTILE[1], path=HOSTILE[3])
    # Halves of characters come from names of files; Arrow holds none.
    words = [text.replace("\ud800", "\ufffd") for text in HOSTILE]
    rows = {}
    for index, name in enumerate(HOSTILE):
        classes = [words[(index + turn) % len(words)] for turn in range(len(CLASSES))]
        rows[name] = make_rows(result, "text", classes, [words[index]])[name]
    return result, rows


def seen(words):
    """Hostile words as a page shows them: without what would hide or reorder the text around it."""
    for sign in "\u202c\u202e\x00\x07\x1b\ud800":
        words = words.replace(sign, "\ufffd")
    return " ".join(words.split())

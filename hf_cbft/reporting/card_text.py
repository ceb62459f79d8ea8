# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""A model card from plain data: its metadata and its text. Names and labels in it stay text."""

import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from hf_cbft import __version__
from hf_cbft.tables import VERDICTS, escape_markdown, format_band, format_number, markdown_table, one_line

# By metric and set, as in results.json. Accuracies are fractions.
Measured = Mapping[str, Mapping[str, float]]

TAG = "hf-cbft"
SETS = {
    "no_cue": "no cue",
    "cue": "with the cue",
    "rand_cue": "cue randomized: it no longer tells the label",
    "rand_input": "input randomized: only the cue tells the label",
}
METRICS = ("accuracy", "perplexity")
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
_LICENSE_FIELDS = ("license", "license_name", "license_link")
_LIBRARIES = ("transformers", "torch", "datasets", "huggingface_hub")


def build_model_card(
    *,
    name: str,
    source: str = "",
    adapter: bool = False,
    task: str | None = None,
    tags: Sequence[str] = (),
    before: Measured | None = None,
    after: Measured | None = None,
    settings: Mapping[str, Any] | None = None,
    path: Mapping[str, Any] | None = None,
    pictures: Mapping[str, str] | None = None,
    command: str | Sequence[str] | None = None,
    language: str | list[str] | None = None,
    license: str | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> ModelCard:
    """The card as `huggingface_hub` has it, of plain data.

    Args:
        name (`str`): of the model.
        source (`str`): the model that was fine-tuned, a Hub id or a folder, of which only the last name is shown.
        adapter (`bool`): whether an adapter was trained.
        task (`str`, *optional*): the Hub's word for what the model does, such as `"image-classification"`.
        before (`Mapping`, *optional*), after (`Mapping`, *optional*): by metric and set; accuracies are fractions.
        settings (`Mapping`, *optional*): name and value, in the order in which they are shown.
        path (`Mapping`, *optional*): what `ConnectivityResult.to_dict` gives.
        pictures (`Mapping`, *optional*): the files beside the card of `"training"` and `"path"`.

    The others are those of [`CBFTTrainer.create_model_card`].

    Example:

    ```python
    >>> from hf_cbft.reporting.card_text import build_model_card
    >>> card = build_model_card(
    ...     name="birds", source="org/birds", task="image-classification",
    ...     before={"accuracy": {"rand_cue": 0.225}}, after={"accuracy": {"rand_cue": 0.775}},
    ... )
    >>> card.data.base_model, card.data.base_model_relation, card.data.tags
    ('org/birds', 'finetune', ['hf-cbft'])
    >>> print(next(line for line in card.text.splitlines() if "rand_cue" in line))
    | rand_cue | cue randomized: it no longer tells the label | 0.225 | 0.775 |

    ```
    """
    before, after, pictures = before or {}, after or {}, pictures or {}
    name, shown, on_hub = one_line(name) or "model", escape_markdown(public_name(source)), _is_on_hub(source)
    license_of_base = read_license(source) if source else {}
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=one_line(part) or "other",
            dataset_name=one_line(part) or "other",
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for metric in METRICS
        for part, value in after.get(metric, {}).items()
    ]
    # peft names the base also where it is a folder of this machine.
    kept = [tag for tag in map(one_line, tags) if on_hub or not tag.startswith("base_model:")]
    terms: Mapping[str, Any] = {"license": one_line(license)} if license else license_of_base
    data = ModelCardData(
        base_model=source if on_hub else None,
        base_model_relation=("adapter" if adapter else "finetune") if on_hub else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task,
        language=[one_line(each) for each in as_list(language)] or None,
        datasets=[one_line(tag) for tag in as_list(dataset_tags)] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=[TAG, *kept],
        eval_results=results or None,
        model_name=name if results else None,
        **terms,
    )
    introduction = [
        f"{'An adapter' if adapter else 'A model'} fine-tuned"
        f"{f' from [{shown}](https://huggingface.co/{source})' if on_hub else f' from {shown}' if shown else ''} with "
        "`hf_cbft` by connectivity-based fine-tuning (CBFT), to rely less on a spurious cue: cross-entropy on clean "
        "data, a loss barrier on the straight line to the reference on data with the cue, and class means of the "
        "representation that do not depend on the cue."
    ]
    if named := ", ".join(map(escape_markdown, as_list(dataset) or as_list(dataset_tags))):
        details = escape_markdown(", ".join(map(str, as_list(dataset_args))))
        introduction.append(f"Data: {named}{f' ({details})' if details else ''}.")
    if license_of_base:
        introduction.append(
            f"Licence of {shown}, as its card gives it: {', '.join(map(escape_markdown, license_of_base.values()))}. "
            "Whether it allows a fine-tuned model to be shared is for whoever shares it to check."
        )
    command = command if command is None or isinstance(command, str) else shlex.join(command)
    libraries = {"hf_cbft": __version__, **{each: version(each) for each in _LIBRARIES}}
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=escape_markdown(name),
        introduction="\n\n".join(introduction),
        sets=_sets_section(before, after),
        path="" if path is None else _path_section(path, pictures.get("path")),
        picture=pictures.get("training"),
        settings=markdown_table([["setting", "value"], *settings.items()]) if settings else "",
        command=(command or "").strip(),
        # Longer than any within.
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", command or "")), default=0)),
        libraries={**libraries, "Python": platform.python_version()},
        peft=version("peft") if adapter else None,
        version=__version__,
    )


def read_license(source: str) -> dict[str, str]:
    """The licence fields in the card of a folder or a Hub repository, as they are; empty where they cannot be had."""
    try:
        data = ModelCard.load(Path(source) / "README.md" if Path(source).is_dir() else source).data
    except (OSError, ValueError, HTTPError, yaml.YAMLError):
        return {}
    found = {name: data.get(name) for name in _LICENSE_FIELDS}
    return {name: one_line(", ".join(map(str, as_list(value)))) for name, value in found.items() if value}


def _sets_section(before: Measured, after: Measured) -> str:
    """A table of every set before and after; empty if nothing was measured."""
    metrics = [metric for metric in METRICS if metric in before or metric in after]
    whens = [(when.get(metric, {}), metric) for metric in metrics for when in (before, after)]
    names = list(dict.fromkeys(name for by_set, _ in whens for name in by_set))
    if not names:
        return ""
    names = [name for name in SETS if name in names] + [name for name in names if name not in SETS]
    titles = [title for metric in metrics for title in (f"{metric} before", "after")]
    rows = [[name, SETS.get(name, ""), *(format_number(by_set.get(name)) for by_set, _ in whens)] for name in names]
    text = markdown_table([["set", "", *titles], *rows])
    text += "\n\nBefore and after fine-tuning; accuracies as fractions; -: not measured."
    if set(SETS) <= set(names):
        text += " A model that ignores the cue has the same accuracy on the first three sets and guesses on the last."
    return text


def _path_section(path: Mapping[str, Any], picture: str | None) -> str:
    settings = path["settings"]
    band = f"{100 * settings['confidence']:g} % band"
    rows = [["set", "n", "loss at 0", "at 1", "accuracy at 0", "at 1", "barrier", band, "connected"]]
    for name, barrier in path["barriers"].items():
        losses, accuracy = path["losses"][name], path["metrics"].get(name, {}).get("accuracy", [None])
        numbers = [losses[0], losses[-1], accuracy[0], accuracy[-1], barrier["height"]]
        rows.append([name, path["num_examples"][name], *map(format_number, numbers)])
        rows[-1] += [format_band(barrier["low"], barrier["high"], digits=3), VERDICTS[barrier["connected"]]]
    parts = [
        f"Loss along the {escape_markdown(settings['path'])} path of {len(path['alphas'])} points from "
        f"{escape_markdown(settings['start'])} (alpha 0) to {escape_markdown(settings['end'])} (alpha 1).",
        f"Aligned by {settings['align']}." if settings.get("align") else "",
        f"![Loss and accuracy of every set along the path]({picture})" if picture else "",
        markdown_table(rows),
        "Losses and barriers in nats, accuracies as fractions. Connected: the band ends at or below "
        f"{settings['tolerance']:g}.",
    ]
    return "\n\n".join(filter(None, parts))


def public_name(source: str) -> str:
    """A model as others know it: a Hub id stays, of a folder the last name, of an adapter both.

    Example:

    ```python
    >>> from hf_cbft.reporting.card_text import public_name
    >>> public_name("org/birds@v1"), public_name("/home/me/runs/birds"), public_name("org/birds+runs/3/adapter")
    ('org/birds@v1', 'birds', 'org/birds+adapter')

    ```
    """
    parts = source.split("+") if not Path(source).exists() else [source]
    return "+".join(part if _is_on_hub(part.partition("@")[0]) else Path(part).name for part in parts)


def _is_on_hub(source: str) -> bool:
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return bool(source) and not Path(source).exists()


def as_list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)

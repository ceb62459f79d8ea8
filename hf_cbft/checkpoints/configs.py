# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Compare two configurations: class, sizes, everything that changes the function, and the labels."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BLOCKING, DIFFERS, SAME = "blocking", "differs", "same"


@dataclass(frozen=True)
class Finding:
    """One thing that was compared.

    Args:
        topic (`str`): what, in a word or two.
        level (`str`): `"blocking"` (no path between the two), `"differs"` (one should know), or `"same"`.
        text (`str`): what was found.
        advice (`str`, *optional*, defaults to `""`): what to do about it.
    """

    topic: str
    level: str
    text: str
    advice: str = ""


# Entries of a configuration, by the last part of their name. What gives the weights their shapes:
_SIZES = re.compile(
    r"^(hidden_sizes?|embedding_size|d_model|n_embd|dim|hidden_dim|num_hidden_layers|num_layers|n_layers?|depths"
    r"|intermediate_size|d_ff|n_inner|ffn_dim|num_decoder_layers|(en|de)coder_(layers|ffn_dim)|patch_size|image_size"
    r"|num_channels|conv_dim|num_experts|num_local_experts)$"
)
# What changes the function and leaves the shapes as they are, or may.
_FUNCTION = re.compile(
    r"heads?$|head_dim|key_value|^rope|rotary|sliding|window|(^|_)act(ivation)?(_|$)|eps(ilon)?$|norm|scal|softcap"
    r"|position_embedding|layer_types?$|causal|^is_decoder|cross_attention|bias|stride|kernel|pool|residual|parallel"
    r"|alibi|multi_query|qkv|experts_per_tok|multiplier|^partial|^tie_"
)
# What is for training, for generation or for the record.
_RECORD = re.compile(
    r"^_|drop|transformers_version|^(torch_)?dtype$|^use_cache$|^initializer|^init_|^output_|^return_dict|checkpointing"
    r"|^task_specific|^finetuning_task|^architectures$|^auto_map$|^id2label$|^label2id$|^num_labels$|^problem_type$"
    r"|^model_type$|^torchscript$|attn_implementation|^tokenizer_class$|^(max|min)_length$|^do_sample$|^num_beams$"
    r"|^temperature$|^top_[kp]$|penalty$|^length_|^no_repeat|^(bos|eos|sep|cls|decoder_start|forced_\w+)_token_id$"
    r"|^prefix$|^mask_(time|feature)|^apply_spec|^ctc_|aux_loss|^vocab_size$|^quantization_config$|^tie_word_embeddings$"
)
_DEFAULT_LABEL = re.compile(r"^LABEL_\d+$")


def compare_configs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Finding]:
    """Sizes, what changes the function, and what else differs. Labels, vocabulary and ties are looked at elsewhere."""
    ours, theirs = _flat(first), _flat(second)
    # What one does not give is its class's default, which null is not.
    if any(_SIZES.match(_last(key)) or _changes_function(key) for key in ours.keys() ^ theirs.keys() if _weighty(key)):
        ours, theirs = _flat(with_defaults(first)) | ours, _flat(with_defaults(second)) | theirs
    keys = sorted(key for key in ours.keys() | theirs.keys() if _weighty(key) and ours.get(key) != theirs.get(key))
    sizes = [key for key in keys if _SIZES.match(_last(key))]
    function = [key for key in keys if key not in sizes and _changes_function(key)]
    others = [key for key in keys if key not in sizes and key not in function]
    found = [
        Finding(
            "size",
            BLOCKING,
            f"{key} is {_shown(ours.get(key))} at the start and {_shown(theirs.get(key))} at the end.",
            "There is no line between weights of two sizes: take two checkpoints of one size.",
        )
        for key in sizes
    ]
    found += [
        Finding(
            "function",
            BLOCKING,
            f"{key} is {_shown(ours.get(key))} at the start and {_shown(theirs.get(key))} at the end.",
            "One module computes all points, so it cannot be both ends: take checkpoints that agree, or set it alike "
            "in both config.json, knowing that this makes another model of one of them.",
        )
        for key in function
    ]
    if others:
        values = [f"{key} ({_shown(ours.get(key))} and {_shown(theirs.get(key))})" for key in others[:3]]
        text = f"config.json differs in {named(values, len(others))}."
        found.append(Finding("settings", DIFFERS, text, "The start's are used at all points: see that this is right."))
    if not sizes and not function:
        found.append(Finding("settings", SAME, "sizes, attention, activation, norms and positions"))
    return found


def compare_labels(first: Mapping[str, Any], second: Mapping[str, Any], head_apart: bool) -> list[Finding]:
    """The names of the classes; `head_apart`: whether the heads are not interpolated."""
    ours, theirs = _labels(first), _labels(second)
    if not ours or not theirs:
        return []
    if ours == theirs:
        return [Finding("labels", SAME, f"{len(ours)} classes of the same names")]
    level = DIFFERS if head_apart else BLOCKING
    if len(ours) != len(theirs):
        return [
            Finding(
                "labels",
                level,
                f"{len(ours)} classes at the start ({named(ours[:3], len(ours))}), {len(theirs)} at the end "
                f"({named(theirs[:3], len(theirs))}).",
                "" if head_apart else "Ask for --ignore_head, or for --head_from start or end.",
            )
        ]
    unnamed = [side for side, names in (("start", ours), ("end", theirs)) if all(map(_DEFAULT_LABEL.match, names))]
    if unnamed:
        text = f"the {' and the '.join(unnamed)} names no classes (LABEL_0, ...), so they cannot be compared."
        return [Finding("labels", DIFFERS, text, "See that class i is the same at both ends.")]
    if [name.casefold() for name in ours] == [name.casefold() for name in theirs]:
        return [Finding("labels", SAME, f"{len(ours)} classes of the same names, but for capitals")]
    moved = [(i, theirs.index(name), name) for i, name in enumerate(ours) if name in theirs and theirs[i] != name]
    if not moved:
        pairs = [f"{a} / {b}" for a, b in zip(ours, theirs, strict=True) if a != b]
        text = f"other names for {len(pairs)} of {len(ours)} classes: {named(pairs[:3], len(pairs))}."
        return [Finding("labels", DIFFERS, text, "See that class i means the same at both ends.")]
    places = [f"{name} is {i} at the start and {j} at the end" for i, j, name in moved]
    return [
        Finding(
            "labels",
            level,
            f"the classes stand in another order: {named(places[:3], len(places), '; ')}.",
            ""
            if head_apart
            else "A line between the heads would mix classes: reorder the rows of one head and its id2label, or ask "
            "for --head_from start or end.",
        )
    ]


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with what its class fills in; as it is where Transformers has no such class."""
    # Loads torch, which takes seconds: only for configurations that leave out what the other gives.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        return dict(config)
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(config)).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError):
        return dict(config)


def named(examples: Iterable[Any], total: int, separator: str = ", ") -> str:
    """The examples, and how many there are besides."""
    shown = [str(example) for example in examples]
    more = [f"and {total - len(shown)} more"] if total > len(shown) else []
    return separator.join([*shown, *more])


def _weighty(key: str) -> bool:
    return not _RECORD.search(_last(key)) and not key.startswith(("id2label.", "label2id.", "quantization_config."))


def _changes_function(key: str) -> bool:
    return "rope." in key or _FUNCTION.search(_last(key)) is not None


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under names with dots; positions under one name, however Transformers has spelled them."""
    config = dict(config)
    flat: dict[str, Any] = {}
    if any(name in config for name in ("rope_theta", "rope_scaling", "rope_parameters")):
        theta, scaling = config.pop("rope_theta", None), config.pop("rope_scaling", None)
        rope = {"rope_theta": theta, **(config.pop("rope_parameters", None) or scaling or {})}
        rope.setdefault("rope_type", rope.pop("type", "default"))
        flat = {f"{prefix}rope.{key}": value for key, value in rope.items() if value is not None}
    for key, value in config.items():
        if isinstance(value, dict) and key not in ("id2label", "label2id", "auto_map", "quantization_config"):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _labels(config: Mapping[str, Any]) -> list[str]:
    """The names of the classes in their order; none for a model that has no classes."""
    if not any("Classification" in str(name) for name in config.get("architectures") or []):
        return []
    names = config.get("id2label")
    if not isinstance(names, dict):
        # What Transformers takes where nothing is said.
        return [f"LABEL_{i}" for i in range(int(config.get("num_labels") or 2))]
    return [str(names[key]) for key in sorted(names, key=lambda key: int(key) if str(key).isdigit() else -1)]


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."

# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The class of a model, and the model inside of an adapter's wrapper."""

from collections.abc import Mapping
from typing import Any


def listed(*mappings: Mapping[str, Any]) -> frozenset[str]:
    """The names of the classes in Transformers' lists, some of whose entries hold several."""
    values = [value for mapping in mappings for value in mapping.values()]
    return frozenset(name for value in values for name in (value if isinstance(value, tuple) else (value,)))


def has_adapter(model: Any) -> bool:
    """Whether the model is a `PeftModel`, told without importing peft."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_model(model: Any) -> Any:
    """The model inside of a `PeftModel`; any other as it is."""
    return model.get_base_model() if has_adapter(model) else model


def class_name(model: Any) -> str:
    """The class of a model, whether or not FSDP2 has put a subclass of its own in its place."""
    names = [cls.__name__ for cls in type(base_model(model)).__mro__]
    own = names[0].removeprefix("FSDP")
    return own if own in names else names[0]

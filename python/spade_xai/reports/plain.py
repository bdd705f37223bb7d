"""Results as JSON takes them, and back: dataclasses by their fields' types."""

import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def from_plain(kind: Any, value: Any) -> Any:
    """A value of a type from what `dataclasses.asdict` and JSON made of it.

    Raises:
        TypeError: It is not of the type.
        KeyError: A field is missing.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
        hints = get_type_hints(kind)
        names = [f.name for f in fields(kind) if f.init]
        return kind(**{name: from_plain(hints[name], value[name]) for name in names})
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return from_plain(next(k for k in inner if k is not type(None)), value)
    if outer in (list, tuple) and isinstance(value, list | tuple):
        return outer(from_plain(inner[0], entry) for entry in value)
    if outer is dict and isinstance(value, dict):
        return {key: from_plain(inner[1], entry) for key, entry in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any or (outer is None and isinstance(kind, type) and isinstance(value, kind)):
        return value
    raise TypeError(f"expected {kind}, got {type(value).__name__}")

"""Reading JSON that others wrote, without guessing."""

from __future__ import annotations

import json


def parse_object(text: str) -> dict[str, object]:
    """The JSON object that `text` is. Anything else, or a key that is there twice, is a `ValueError` that says so."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"JSON of another kind ({type(value).__name__})")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key that is there twice")
    return dict(pairs)

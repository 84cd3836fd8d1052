"""Words for people that every layer shares. Pure."""

from __future__ import annotations


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 row`, `2 rows`, `no rows`."""
    word = noun if number == 1 else plural or f"{noun}s"
    return f"{number or 'no'} {word}"

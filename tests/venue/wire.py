"""What every dialect shares: one request, one reply, and the way a dialect answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol
from urllib.parse import parse_qsl

from venue.model import plain

GARBAGE = "<html><head><title>Maintenance</title></head><body><h1>We will be back soon.</h1></body></html>"
"""What a proxy in front of a venue says instead of JSON."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: `query` is the raw text after the question mark, `body` the raw body, `headers` in lower case."""

    method: str
    path: str
    query: str
    body: str
    headers: Mapping[str, str]

    @property
    def params(self) -> dict[str, str]:
        """The parameters of query and body; of a JSON body, those of its top level."""
        pairs = dict(parse_qsl(self.query, keep_blank_values=True))
        if self.body.startswith("{"):
            return pairs | {key: str(value) for key, value in json.loads(self.body).items()}
        return pairs | dict(parse_qsl(self.body, keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: `body` is JSON, or text that is sent as it stands."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The body as bytes; decimals are written as JSON strings, exactly."""
        if isinstance(self.body, str):
            return self.body.encode()
        return json.dumps(self.body, default=_encode, separators=(",", ":")).encode()

    @property
    def content_type(self) -> str:
        """The media type of the body."""
        return "text/html" if isinstance(self.body, str) else "application/json;charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Keys:
    """The one pair of keys that the venue accepts, and what the pair may do; `secret` is base64, as Kraken's are."""

    api_key: str
    secret: str
    can_trade: bool = False
    can_withdraw: bool = False


class Clock(Protocol):
    """The venue's clock."""

    def __call__(self) -> datetime:
        """The instant that the venue believes it is."""
        ...


class Dialect(Protocol):
    """One venue's REST interface to one scenario. Every method is pure but for nonces that were seen."""

    name: str
    prefixes: tuple[str, ...]

    def is_write(self, request: Request) -> bool:
        """Whether the request would change anything at the venue."""
        ...

    def refuse_write(self) -> Reply:
        """The 403 that answers such a request."""
        ...

    def answer(self, request: Request) -> Reply:
        """The answer to a request that only reads, keys checked."""
        ...

    def rate_limited(self, retry_after: int | None) -> Reply:
        """What the venue answers when it is asked too often; `retry_after` in seconds, if it tells."""
        ...

    def banned(self, retry_after: int | None) -> Reply:
        """What it answers when the warning was ignored."""
        ...

    def maintenance(self) -> Reply:
        """What it answers during maintenance."""
        ...


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970."""
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def from_milliseconds(value: str) -> datetime:
    """The instant of so many milliseconds since 1970."""
    whole = int(value)
    return datetime.fromtimestamp(whole // 1000, UTC).replace(microsecond=whole % 1000 * 1000)


def _encode(value: object) -> str:
    if isinstance(value, Decimal):
        return plain(value)
    raise TypeError(f"{value!r} has no JSON form")

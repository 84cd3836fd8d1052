"""Which answers go wrong, and how: a plan for a whole run, the same one for the same seed, with a count of each kind.

A fault strikes by the number of a request, or each request with a probability. The same request is struck at most
`at_most` times unless the plan says `forever`, so that a client that repeats itself gets through in the end.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from venue.wire import Request

_UNSTEADY = frozenset(("timestamp", "signature", "nonce", "recvWindow"))
"""Parameters in which a repeated request differs from the first."""


class FaultKind(StrEnum):
    """What goes wrong with one answer."""

    DELAY = "delay"
    """It comes late."""
    CUT = "cut"
    """It ends in the middle, although Content-Length promised more."""
    DROP = "drop"
    """The connection is closed without an answer."""
    REPEAT = "repeat"
    """The answer to the previous request of the same path is given again."""
    RATE_LIMIT = "rate_limit"
    """The venue has been asked too often."""
    BANNED = "banned"
    """The venue has been asked too often although it had warned (Binance: 418)."""
    SERVER_ERROR = "server_error"
    """500, 502 or 503 from the venue's edge."""
    GARBAGE = "garbage"
    """200 with an HTML page."""
    MAINTENANCE = "maintenance"
    """The venue's own words for maintenance."""
    WRONG_CLOCK = "wrong_clock"
    """The clocks differ: the Date header is off, and a request with a time is refused."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `seconds` of delay or of clock error, `retry_after` in seconds if told, `status` of the error."""

    kind: FaultKind
    seconds: float = 0
    retry_after: int | None = None
    status: int = 500


def delay(seconds: float) -> Fault:
    """The answer comes so many seconds late."""
    return Fault(FaultKind.DELAY, seconds=seconds)


def rate_limit(retry_after: int | None = None) -> Fault:
    """Asked too often; with or without a Retry-After."""
    return Fault(FaultKind.RATE_LIMIT, retry_after=retry_after)


def banned(retry_after: int | None = None) -> Fault:
    """Asked too often after a warning."""
    return Fault(FaultKind.BANNED, retry_after=retry_after)


def server_error(status: int = 500) -> Fault:
    """An error of the venue's edge with this status."""
    return Fault(FaultKind.SERVER_ERROR, status=status)


def wrong_clock(seconds: float) -> Fault:
    """The venue's clock is so many seconds ahead of the client's."""
    return Fault(FaultKind.WRONG_CLOCK, seconds=seconds)


CUT = Fault(FaultKind.CUT)
DROP = Fault(FaultKind.DROP)
REPEAT = Fault(FaultKind.REPEAT)
GARBAGE = Fault(FaultKind.GARBAGE)
MAINTENANCE = Fault(FaultKind.MAINTENANCE)

EVERY = (
    delay(0.05), CUT, DROP, rate_limit(), rate_limit(1), banned(), server_error(500), server_error(502),
    server_error(503), GARBAGE, MAINTENANCE, wrong_clock(30),
)  # fmt: skip
"""One of each kind that a client can notice by itself; a repeated page looks like a right one."""


class FaultPlan:
    """Says for each request which fault strikes it, if any, and counts what it said."""

    def __init__(
        self,
        at: Mapping[int, Fault] | None = None,
        *,
        each: Sequence[Fault] = (),
        probability: float = 0,
        seed: int = 0,
        at_most: int = 2,
        forever: bool = False,
        only: Callable[[Request], bool] = lambda _: True,
        skew_seconds: float = 0,
    ) -> None:
        """`at` counts the requests from 1, of those that `only` holds for.

        With `probability` (0 to 1) each of them is struck by one of `each`. `skew_seconds` is how far the venue's
        clock is ahead, all the time; it is no fault of a request and is not counted.
        """
        self._at = dict(at or {})
        self._each = tuple(each)
        self._probability = probability
        self._random = random.Random(seed)
        self._most = None if forever else at_most
        self._only = only
        self._lock = threading.Lock()
        self._struck: Counter[object] = Counter()
        self._seen = 0
        self.skew_seconds = skew_seconds
        self.counts: Counter[FaultKind] = Counter()
        """How many requests were struck, by kind."""

    @property
    def total(self) -> int:
        """How many requests were struck."""
        return sum(self.counts.values())

    def strike(self, request: Request) -> Fault | None:
        """The fault of the next request; a fault that is said is counted."""
        if not self._only(request):
            return None
        with self._lock:
            self._seen += 1
            fault = self._at.get(self._seen) or self._by_chance()
            key = _identity(request)
            if fault is None or (self._most is not None and self._struck[key] >= self._most):
                return None
            self._struck[key] += 1
            self.counts[fault.kind] += 1
            return fault

    def _by_chance(self) -> Fault | None:
        if not self._each or self._random.random() >= self._probability:
            return None
        return self._random.choice(self._each)

    def uncount(self, fault: Fault) -> None:
        """Take back one that could not be carried out."""
        with self._lock:
            self.counts[fault.kind] -= 1


def path_contains(*parts: str) -> Callable[[Request], bool]:
    """For `only`: the requests whose path contains one of these texts."""
    return lambda request: any(part in request.path for part in parts)


def _identity(request: Request) -> object:
    steady = {key: value for key, value in request.params.items() if key not in _UNSTEADY}
    return request.method, request.path, tuple(sorted(steady.items()))

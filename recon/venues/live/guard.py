"""What ccxt may send and what counts as an answer: one request at a time, asked again where that may help.

Entry point: `Guarded`, a class that goes before ccxt's own. A request other than a read is refused before it is sent,
whoever makes it. Invariants 10 and 12: an answer that is not understood is a failure.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import ccxt
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

POST_READS: Mapping[str, re.Pattern[str]] = {
    "kraken": re.compile(
        r".*/0/private/(TradesHistory|Ledgers|QueryOrders|OpenOrders|OpenPositions|BalanceEx|GetApiKeyInfo)"
    ),
    "hyperliquid": re.compile(r".*/info"),
}
"""Paths that a venue reads by POST, behind whatever the base address puts before them; elsewhere a read is a GET."""

GROWING_NONCES = frozenset({"kraken"})
"""Venues that want each nonce larger than the last, whatever the time: their clock, in seconds, would set it back."""

ATTEMPTS = 6
"""How often a question is asked before its failure is final."""

LONGEST_WAIT = 60
"""Seconds: a venue that asks for more patience than this is named, not waited for."""

SECOND = 1.0
"""How long a second of waiting takes; tests make it shorter."""

REPEATS = 2
"""How often an answer equal to the one before, to another question, is asked for again before it is believed."""


class Garbled(ccxt.BadResponse):  # type: ignore[misc]
    """An answer without what the venue's documentation promises; asking again may help."""


def wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: half a second, and twice as much each time."""
    return SECOND * wait_exponential_jitter(multiplier=0.5, max=10, jitter=0.5)(state)


def understood(ask: Callable[[], Any]) -> Any:
    """The answer; whatever ccxt trips over inside an answer is `Garbled`."""
    try:
        return ask()
    except binascii.Error as error:
        raise ccxt.AuthenticationError("the secret is not written as this venue writes secrets") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Garbled(f"an answer without the promised content ({type(error).__name__})") from error


class Guarded:
    """Goes before ccxt's own class: what may be sent, and what counts as an answer."""

    def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """One request. One that is no read is refused before it is sent; a body that is no JSON is no answer."""
        path = urlsplit(url).path
        posts = POST_READS.get(self.id)  # type: ignore[attr-defined]
        if method != "GET" and not (method == "POST" and posts and posts.fullmatch(path)):
            raise ccxt.NotSupported(f"{method} {path} is not a read, and recon only reads")
        answer = super().fetch(url, method, headers, body)  # type: ignore[misc]
        if not isinstance(answer, dict | list):
            raise ccxt.BadResponse("an answer that is no JSON")
        return answer

    def fetch2(
        self, path: str, api: Any = "public", method: str = "GET", params: Any = None, config: Any = None
    ) -> Any:
        """One question, asked again when it got the answer to the last one on its path, as from a cache in between."""
        question = (method, repr(params))
        before = self.__dict__.setdefault("_last", {}).get(path, (question, None))
        for _ in range(1 + REPEATS):
            answer = self._asked(lambda: super(Guarded, self).fetch2(path, api, method, params or {}, config or {}))  # type: ignore[misc]
            said: str | None = self.last_http_response  # type: ignore[attr-defined]
            if question == before[0] or said != before[1]:
                break
        self.__dict__["_last"][path] = (question, said)
        return answer

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """The answer to one request, made again as often and as late as may help."""
        again = Retrying(
            stop=lambda state: stop_after_attempt(ATTEMPTS)(state) or self.patience_asked() > LONGEST_WAIT,
            wait=lambda state: max(wait(state), SECOND * self.patience_asked()),
            retry=retry_if_exception_type(ccxt.OperationFailed),
            before_sleep=self._set_clock,
            reraise=True,
        )
        return again(ask)

    def patience_asked(self) -> float:
        """Seconds that the last answer asks to wait, by number or by date; 0 when it does not."""
        asked = str((self.last_response_headers or {}).get("Retry-After", "")).strip()  # type: ignore[attr-defined]
        if asked.isdecimal():
            return float(asked)
        try:
            return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return 0.0

    def _set_clock(self, state: RetryCallState) -> None:
        """Read the venue's clock again when it refused a time: the first reading may have been the wrong one."""
        refused = state.outcome is not None and isinstance(state.outcome.exception(), ccxt.InvalidNonce)
        if refused and self.has.get("fetchTime") and self.id not in GROWING_NONCES:  # type: ignore[attr-defined]
            with suppress(ccxt.BaseError):
                understood(self.load_time_difference)  # type: ignore[attr-defined]

    @staticmethod
    def on_json_response(body: str) -> Any:
        """JSON without floats: ccxt would read 0.1 as a binary fraction."""
        return json.loads(body, parse_float=str)

    # A page is taken whole: ccxt drops rows of other symbols and times, and then the page looks like the last.

    def parse_trades(self, trades: Any, market: Any = None, *_: Any, **__: Any) -> list[Any]:
        """Every fill of the page."""
        return [self.parse_trade(trade, market) for trade in self.to_array(trades)]  # type: ignore[attr-defined]

    def parse_orders(self, orders: Any, market: Any = None, *_: Any, **__: Any) -> list[Any]:
        """Every order of the page."""
        return [self.parse_order(order, market) for order in self.to_array(orders)]  # type: ignore[attr-defined]

    def parse_ledger(self, data: Any, currency: Any = None, *_: Any, **__: Any) -> list[Any]:
        """Every entry of the page."""
        return [self.parse_ledger_entry(entry, currency) for entry in self.to_array(data)]  # type: ignore[attr-defined]

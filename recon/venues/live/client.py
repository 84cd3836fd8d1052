"""One venue, read only: ccxt with its writing calls out of reach, its answers checked, its failures retried and named.

Entry point: `connect`. What ccxt offers for changing an account stays behind `ReadOnlyVenue.read`, which knows reading
calls alone; and should a request other than a read be made all the same, the transport refuses it before it is sent.
Invariants 10 and 12: an answer that is not understood is a failure, and no failure repeats a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ccxt
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from recon.errors import Refused, UsageError

READS = frozenset(
    {
        "load_time_difference", "load_markets", "fetch_my_trades", "fetch_orders", "fetch_order", "fetch_orders_by_ids",
        "fetch_ledger", "fetch_balance", "fetch_positions", "fetch_open_orders", "fetch_my_dust_trades",
    }
)  # fmt: skip
"""Every call of ccxt that recon makes."""

POST_READS: Mapping[str, re.Pattern[str]] = {
    "kraken": re.compile(
        r".*/0/private/(TradesHistory|Ledgers|QueryOrders|OpenOrders|OpenPositions|BalanceEx|GetApiKeyInfo)"
    ),
    "hyperliquid": re.compile(r".*/info"),
}
"""Paths that a venue reads by POST, behind whatever the base address puts before them; elsewhere a read is a GET."""

ATTEMPTS = 6
"""How often a question is asked before its failure is final."""

LONGEST_WAIT = 60
"""Seconds: a venue that asks for more patience than this is named, not waited for."""

SECOND = 1.0
"""How long a second of waiting takes; tests make it shorter."""

_PATIENCE = wait_exponential_jitter(multiplier=0.5, max=10, jitter=0.5)

REPEATS = 2
"""How often an answer equal to the one before, to another question, is asked for again before it is believed."""


class Garbled(ccxt.BadResponse):  # type: ignore[misc]
    """The venue's answer is not what its documentation promises; asking again may help."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an account. `base_url` replaces scheme and host of every REST address; `market` is ccxt's type."""

    name: str
    api_key: str | None = None
    secret: str | None = None
    password: str | None = None
    sandbox: bool = False
    base_url: str | None = None
    market: str | None = None
    paced: bool = True


class ReadOnlyVenue:
    """An account at a venue, through which nothing can be changed.

    `market` is spot, swap, future or margin; `answers` counts what the venue was asked. The loaded markets are those
    of that kind alone.
    """

    def __init__(self, client: Any, secrets: Sequence[str], market: str) -> None:
        """Take a guarded client; `connect` makes one."""
        self._client = client
        self._secrets = secrets
        self.market = market
        self.markets: dict[str, dict[str, Any]] = {}
        self.on_answer: Callable[[], object] = lambda: None

    @property
    def name(self) -> str:
        """Ccxt's id of the venue."""
        return str(self._client.id)

    @property
    def answers(self) -> int:
        """How many answers were read so far."""
        return int(self._client.answers)

    @property
    def last_answer(self) -> Any:
        """The venue's own last answer, before ccxt made anything of it."""
        return self._client.last_json_response

    @property
    def time_difference(self) -> int:
        """How many milliseconds this machine's clock is ahead of the venue's, once `load` has asked."""
        return int(self._client.options.get("timeDifference") or 0)

    def can(self, method: str) -> bool:
        """Whether ccxt says that the venue offers the call, such as `fetchPositions`; an emulated one counts not."""
        return self._client.has.get(method) is True

    def feature(self, method: str, name: str) -> Any:
        """What ccxt's table of features says of a call for this kind of market; None when it says nothing."""
        features = (self._client.features or {}).get(self.market.replace("margin", "spot")) or {}
        features = features.get("linear") or features
        return (features.get(method) or {}).get(name)

    def aliases(self, code: str) -> tuple[str, ...]:
        """The names under which the venue itself knows an asset: BTC is XBT or XXBT at some."""
        return tuple(sorted(alias for alias, known in self._client.commonCurrencies.items() if known == code))

    def asset(self, name: str) -> str:
        """What ccxt calls an asset that the venue knows by this name."""
        return str(self._client.safe_currency_code(name))

    def load(self) -> None:
        """Read the venue's clock, so that ours may differ, and its markets. Raises `Refused` (evidence_unreadable)."""
        if self.can("fetchTime"):
            self.read("load_time_difference")
        kinds = {"margin": "spot"}.get(self.market, self.market)
        every = self.read("load_markets")
        self.markets = {name: market for name, market in every.items() if market.get(kinds)}

    def read(self, method: str, *arguments: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Ask, again and again where that may help. Raises `Refused` (evidence_unreadable), which names the failure."""
        if method not in READS:
            raise ValueError(f"{method} is not a reading call")
        return self._asked(method, lambda: getattr(self._client, method)(*arguments, params=dict(params or {})))

    def raw(self, endpoint: str, params: Mapping[str, Any]) -> Any:
        """As `read`, for an endpoint that ccxt declares but does not use: `GET private v5/user/query-api`."""
        method, api, path = endpoint.split(" ", 2)
        return self._asked(path, lambda: self._client.request(path, api.split("."), method, dict(params)))

    def _asked(self, what: str, ask: Any) -> Any:
        again = Retrying(
            stop=lambda state: stop_after_attempt(ATTEMPTS)(state) or self._patience_asked() > LONGEST_WAIT,
            wait=lambda state: SECOND * max(_PATIENCE(state), self._patience_asked()),
            retry=retry_if_exception_type(ccxt.OperationFailed),
            before_sleep=self._set_clock,
            reraise=True,
        )
        try:
            answer = again(_understood, ask)
        except ccxt.BaseError as error:
            raise self._named(what, error) from None
        self.on_answer()
        return answer

    def _patience_asked(self) -> float:
        """Seconds that the last answer asks to wait, by number or by date; 0 when it does not."""
        asked = str((self._client.last_response_headers or {}).get("Retry-After", "")).strip()
        if asked.isdecimal():
            return float(asked)
        try:
            return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return 0.0

    def _set_clock(self, state: RetryCallState) -> None:
        """Read the venue's clock again when it refused a time: the first reading may have been the wrong one."""
        if state.outcome and isinstance(state.outcome.exception(), ccxt.InvalidNonce) and self.can("fetchTime"):
            with suppress(ccxt.BaseError):
                _understood(self._client.load_time_difference)

    def _named(self, what: str, error: ccxt.BaseError) -> Refused:
        said = re.sub(r"(GET|POST) \S+", "", str(error).removeprefix(self.name)).strip()
        for secret in self._secrets:
            said = said.replace(secret, "***")
        about_keys = isinstance(error, ccxt.AuthenticationError) or re.search("key|signature|permission", said, re.I)
        remedy = "run again when the venue answers"
        if self._patience_asked() > LONGEST_WAIT:
            remedy = f"it asks to be left alone for {self._patience_asked():.0f} s, so run again after that"
        elif about_keys:
            remedy = "check RECON_EXCHANGE_API_KEY and RECON_EXCHANGE_SECRET, and what they are allowed to read"
        return Refused(
            "evidence_unreadable",
            f"{self.name} did not answer {what} in full: {type(error).__name__} ({said[:200] or 'no more was said'}); "
            f"{remedy}.",
        )


def connect(access: Access) -> ReadOnlyVenue:
    """The venue of the name, not asked anything yet. Raises `UsageError` (exchange_unknown)."""
    if access.name not in ccxt.exchanges:
        raise UsageError("exchange_unknown", f"ccxt knows no venue {access.name!r}. Correct RECON_EXCHANGE.")
    kind = type(access.name, (_Guarded, getattr(ccxt, access.name)), {})
    client = kind({"number": str, "timeout": 20_000, "enableRateLimit": access.paced, "enableLastJsonResponse": True})
    market = access.market or client.options.get("defaultType") or "spot"
    client.options["defaultType"] = market
    client.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
    _set_credentials(client, access)
    if access.sandbox:
        client.set_sandbox_mode(True)
    if access.base_url:
        client.urls = {**client.urls, "api": _moved(client.urls["api"], access.base_url)}
    secrets = [secret for secret in (access.api_key, access.secret, access.password) if secret]
    return ReadOnlyVenue(client, secrets, "swap" if market == "linear" else market)


def _set_credentials(client: Any, access: Access) -> None:
    if client.requiredCredentials.get("walletAddress"):
        client.walletAddress, client.requiredCredentials["privateKey"] = access.api_key, False
    client.apiKey, client.secret, client.password = access.api_key, access.secret, access.password


def _moved(address: Any, base: str) -> Any:
    """The addresses of ccxt's table with scheme and host of `base`."""
    if isinstance(address, dict):
        return {name: _moved(inner, base) for name, inner in address.items()}
    there, here = urlsplit(base), urlsplit(address)
    path = there.path.rstrip("/") + here.path
    return urlunsplit((there.scheme, there.netloc, path, here.query, ""))


def _understood(ask: Any) -> Any:
    """The answer; whatever ccxt trips over inside an answer is `Garbled`."""
    try:
        return ask()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Garbled(f"an answer without the promised content ({type(error).__name__})") from error


class _Guarded:
    """Goes before ccxt's own class: what may be sent, and what counts as an answer."""

    answers = 0

    def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
        """One request. One that is no read is refused before it is sent; a body that is no JSON is `Garbled`."""
        path = urlsplit(url).path
        posts = POST_READS.get(self.id)  # type: ignore[attr-defined]
        if method != "GET" and not (method == "POST" and posts and posts.fullmatch(path)):
            raise ccxt.NotSupported(f"{method} {path} is not a read, and recon only reads")
        answer = super().fetch(url, method, headers, body)  # type: ignore[misc]
        self.answers += 1
        if not isinstance(answer, dict | list):
            raise Garbled("an answer that is no JSON")
        return answer

    def fetch2(
        self, path: str, api: Any = "public", method: str = "GET", params: Any = None, config: Any = None
    ) -> Any:
        """One question, asked again when it got the answer to the last one on its path, as from a cache in between."""
        question = (method, repr(params))
        before = self.__dict__.setdefault("_last", {}).get(path, (question, None))
        for _ in range(1 + REPEATS):
            answer = super().fetch2(path, api, method, params or {}, config or {})  # type: ignore[misc]
            said: str | None = self.last_http_response  # type: ignore[attr-defined]
            if question == before[0] or said != before[1]:
                break
        self.__dict__["_last"][path] = (question, said)
        return answer

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

"""One venue, read only: ccxt with its writing calls out of reach, its answers checked, its failures retried and named.

Entry point: `connect`. What ccxt offers for changing an account stays behind `ReadOnlyVenue.read`, which knows reading
calls alone; and should a request other than a read be made all the same, the transport refuses it before it is sent.
Invariants 10 and 12: an answer that is not understood is a failure, and no failure repeats a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ccxt
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from recon.errors import Refused, UsageError
from recon.venues.live import guard
from recon.venues.live.guard import Garbled, Guarded, understood
from recon.venues.live.shapes import check_shape

READS = frozenset(
    {
        "load_time_difference", "load_markets", "fetch_my_trades", "fetch_orders", "fetch_order", "fetch_orders_by_ids",
        "fetch_ledger", "fetch_balance", "fetch_positions", "fetch_open_orders", "fetch_my_dust_trades",
    }
)  # fmt: skip
"""Every call of ccxt that recon makes."""


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


class Denied(Refused):
    """The venue does not accept the keys, or not for this question; asking it more questions is of no use."""


class ReadOnlyVenue:
    """An account at a venue, through which nothing can be changed.

    `market` is spot, swap, future or margin; `time_difference` is how many milliseconds this machine's clock is ahead
    of the venue's, once `load` has asked. The loaded markets are those of that kind alone; `every` holds all.
    """

    def __init__(self, client: Any, secrets: Sequence[str], market: str) -> None:
        """Take a guarded client; `connect` makes one."""
        self._client = client
        self._secrets = secrets
        self.market = market
        self.markets: dict[str, dict[str, Any]] = {}
        self.every: dict[str, dict[str, Any]] = {}
        self.time_difference = 0
        self.on_answer: Callable[[], object] = lambda: None

    @property
    def name(self) -> str:
        """Ccxt's id of the venue."""
        return str(self._client.id)

    @property
    def last_answer(self) -> Any:
        """The venue's own last answer, before ccxt made anything of it."""
        return self._client.last_json_response

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
            self.time_difference = int(self.read("load_time_difference"))
            if self.name in guard.GROWING_NONCES:
                self._client.options["timeDifference"] = 0
        kinds = {"margin": "spot"}.get(self.market, self.market)
        every = self.read("load_markets")
        self.every = every
        self.markets = {name: market for name, market in every.items() if market.get(kinds)}
        if not self.markets:
            raise UsageError(
                "exchange_unknown", f"{self.name} lists no {self.market} market. Correct RECON_EXCHANGE_MARKET."
            )

    def read(self, method: str, *arguments: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Ask, again and again where that may help. Raises `Refused` (evidence_unreadable), which names the failure."""
        if method not in READS:
            raise ValueError(f"{method} is not a reading call")

        def ask() -> Any:
            answer = getattr(self._client, method)(*arguments, params=dict(params or {}))
            check_shape(self.name, method, self.last_answer)
            return answer

        return self._asked(method, ask)

    def raw(self, endpoint: str, params: Mapping[str, Any]) -> Any:
        """As `read`, for an endpoint that ccxt declares but does not use: `GET private v5/user/query-api`."""
        method, api, path = endpoint.split(" ", 2)
        return self._asked(path, lambda: self._client.request(path, api.split("."), method, dict(params)))

    def _asked(self, what: str, ask: Any) -> Any:
        again = Retrying(
            stop=stop_after_attempt(guard.ATTEMPTS),
            retry=retry_if_exception_type(Garbled),
            wait=guard.wait,
            reraise=True,
        )
        try:
            answer = again(understood, ask)
        except ccxt.BaseError as error:
            raise self._named(what, error) from None
        self.on_answer()
        return answer

    def _named(self, what: str, error: ccxt.BaseError) -> Refused:
        said = re.sub(r"(GET|POST) \S+", "", str(error).removeprefix(self.name)).strip()
        for secret in self._secrets:
            said = said.replace(secret, "***")
        about_keys = isinstance(error, ccxt.AuthenticationError) or re.search("key|signature|permission", said, re.I)
        remedy = "run again when the venue answers"
        if (asked := self._client.patience_asked()) > guard.LONGEST_WAIT:
            remedy = f"it asks to be left alone for {asked:.0f} s, so run again after that"
        elif about_keys:
            remedy = "check RECON_EXCHANGE_API_KEY and RECON_EXCHANGE_SECRET, and what they are allowed to read"
        kind = Denied if isinstance(error, ccxt.AuthenticationError) else Refused
        return kind(
            "evidence_unreadable",
            f"{self.name} did not answer {what} in full: {type(error).__name__} ({said[:200] or 'no more was said'}); "
            f"{remedy}.",
        )


def connect(access: Access) -> ReadOnlyVenue:
    """The venue of the name, not asked anything yet. Raises `UsageError` (exchange_unknown)."""
    if access.name not in ccxt.exchanges:
        raise UsageError("exchange_unknown", f"ccxt knows no venue {access.name!r}. Correct RECON_EXCHANGE.")
    kind = type(access.name, (Guarded, getattr(ccxt, access.name)), {})
    client = kind({"number": str, "timeout": 20_000, "enableRateLimit": access.paced, "enableLastJsonResponse": True})
    market = access.market or client.options.get("defaultType") or "spot"
    client.options["defaultType"] = market
    if market == "margin":  # of a market's type ccxt knows spot alone, and would read the spot account
        client.options["defaultMarginMode"] = "cross"
    if market in ("swap", "future"):  # some of ccxt's calls go by this alone, and would read the spot account
        client.options["defaultSubType"] = "linear"
    client.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
    _set_credentials(client, access)
    if access.sandbox:
        if not client.urls.get("test"):
            raise UsageError("exchange_unknown", f"{access.name} has no sandbox. Unset RECON_EXCHANGE_SANDBOX.")
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

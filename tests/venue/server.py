"""A server on loopback that tells one scenario in every dialect, keeps a log, refuses writes and carries out faults."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from venue.alpaca import Alpaca
from venue.binance_spot import BinanceSpot
from venue.binance_usdm import BinanceUsdm
from venue.faults import Fault, FaultKind, FaultPlan
from venue.kraken import Kraken
from venue.model import Scenario
from venue.spelling import Name, spelled
from venue.wire import GARBAGE, Dialect, Keys, Reply, Request

KEYS = Keys("loopbackKey0123456789", base64.b64encode(b"a secret of the loopback venue, nobody else's").decode())
"""The keys that the server accepts unless it is given others."""

_DIALECTS: dict[Name, type[Alpaca | BinanceSpot | BinanceUsdm | Kraken]] = {
    "alpaca": Alpaca,
    "binance_spot": BinanceSpot,
    "binance_usdm": BinanceUsdm,
    "kraken": Kraken,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the server saw it; `status` is 0 when the connection was closed without an answer."""

    number: int
    dialect: str
    method: str
    path: str
    params: Mapping[str, str] = field(repr=False)
    status: int
    fault: FaultKind | None

    @property
    def faulted(self) -> bool:
        """Whether the answer went wrong on purpose."""
        return self.fault is not None


class VenueServer:
    """Serves a scenario from `with` to the end of the block.

    `requests` is the log, `writes` the requests that would have changed something (each answered 403), `faults` the
    plan with its counts. `limits` lowers the rows per page of a dialect. With the clock `wall`, requests are judged
    by this machine's clock, so that a client needs no correction although the scenario lies in the past; with
    `scenario`, the venue's clock starts at the scenario's `now`.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        limits: Mapping[str, int] | None = None,
        faults: FaultPlan | None = None,
        keys: Keys = KEYS,
        clock: Literal["wall", "scenario"] = "wall",
    ) -> None:
        self.scenario = scenario
        self.keys = keys
        self.faults = faults or FaultPlan()
        self.requests: list[Seen] = []
        self.writes: list[Seen] = []
        self._ahead = scenario.now - datetime.now(UTC) if clock == "scenario" else timedelta()
        self._here = threading.local()
        self._lock = threading.Lock()
        self._previous: dict[str, Reply] = {}
        self._closing = threading.Event()
        self._limits = dict(limits or {})
        self._dialects: dict[Name, Dialect] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def now(self) -> datetime:
        """The venue's clock, wrong by as much as the plan says."""
        wrong = self.faults.skew_seconds + getattr(self._here, "seconds", 0)
        return datetime.now(UTC) + self._ahead + timedelta(seconds=wrong)

    def told(self, name: Name) -> Scenario:
        """The scenario as this dialect tells it: with its ids and its precision of time."""
        return spelled(self.scenario, name)

    @property
    def statuses(self) -> Counter[int]:
        """How many requests were answered with each status."""
        return Counter(seen.status for seen in self.requests)

    # Called by the handler

    def handle(self, request: Request) -> tuple[Reply, Fault | None, str]:
        """The answer, the fault that strikes it, and the Date header; everything is logged."""
        dialect = self._dialect(request)
        if dialect is None:
            reply = Reply(404, {"message": f"no dialect has {request.path}"})
            return self._log(request, "none", reply, None), None, self._date()
        if dialect.is_write(request):
            return self._log(request, dialect.name, dialect.refuse_write(), None, write=True), None, self._date()
        fault = self.faults.strike(request)
        self._here.seconds = fault.seconds if fault and fault.kind is FaultKind.WRONG_CLOCK else 0
        reply, fault = self._answer(dialect, request, fault)
        return self._log(request, dialect.name, reply, fault), fault, self._date()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the server is about to close."""
        self._closing.wait(seconds)

    def _dialect(self, request: Request) -> Dialect | None:
        """The dialect of a path, made when it is first spoken."""
        for name, kind in _DIALECTS.items():
            if request.path.startswith(kind.prefixes):
                with self._lock:
                    if name not in self._dialects:
                        self._dialects[name] = kind(self.told(name), self.keys, self.now, self._limits.get(name))
                    return self._dialects[name]
        return None

    def _answer(self, dialect: Dialect, request: Request, fault: Fault | None) -> tuple[Reply, Fault | None]:
        kind = fault.kind if fault else None
        if kind is FaultKind.REPEAT and fault:
            with self._lock:
                previous = self._previous.get(request.path)
            if previous:
                return previous, fault
            self.faults.uncount(fault)
            fault = None
        ready = _instead(dialect, fault) if fault else None
        if ready:
            return ready, fault
        reply = dialect.answer(request)
        if reply.status == 200:
            with self._lock:
                self._previous[request.path] = reply
        return reply, fault

    def _log(self, request: Request, dialect: str, reply: Reply, fault: Fault | None, *, write: bool = False) -> Reply:
        kind = fault.kind if fault else None
        status = 0 if kind is FaultKind.DROP else reply.status
        with self._lock:
            seen = Seen(len(self.requests) + 1, dialect, request.method, request.path, request.params, status, kind)
            self.requests.append(seen)
            if write:
                self.writes.append(seen)
        return reply

    def _date(self) -> str:
        return format_datetime(self.now(), usegmt=True)


def _instead(dialect: Dialect, fault: Fault) -> Reply | None:
    """The answer that takes the place of the right one, if the fault is of that kind."""
    match fault.kind:
        case FaultKind.RATE_LIMIT:
            return dialect.rate_limited(fault.retry_after)
        case FaultKind.BANNED:
            return dialect.banned(fault.retry_after)
        case FaultKind.MAINTENANCE:
            return dialect.maintenance()
        case FaultKind.SERVER_ERROR:
            return Reply(fault.status, f"<html><body><h1>{fault.status}</h1></body></html>")
        case FaultKind.GARBAGE:
            return Reply(200, GARBAGE)
        case _:
            return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, venue: VenueServer) -> None:
        self.venue = venue
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "venue"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, unquote(parts.path), parts.query, body, headers)
        reply, fault, date = self.server.venue.handle(request)
        kind = fault.kind if fault else None
        if kind is FaultKind.DELAY and fault:
            self.server.venue.wait(fault.seconds)
        if kind is FaultKind.DROP:
            self.close_connection = True
            return
        self._send(reply, date, cut=kind is FaultKind.CUT)

    def _send(self, reply: Reply, date: str, *, cut: bool) -> None:
        body = reply.encoded()
        self.send_response_only(reply.status)
        self.send_header("Date", date)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(body)))
        for key, value in reply.headers.items():
            self.send_header(key, value)
        self.end_headers()
        try:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        self.close_connection = self.close_connection or cut

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  (names that the base class looks for)

    def log_message(self, *_: object) -> None:
        """Stay silent."""

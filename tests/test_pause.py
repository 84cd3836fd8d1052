"""The pause gate against real HTTP servers on loopback: only a clear PAUSED of this profile is a yes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from recon import pause
from recon.pause import MAX_ANSWER_BYTES, PauseAnswer, PauseState

PAUSED, NOT_PAUSED, UNKNOWN = PauseState.PAUSED, PauseState.NOT_PAUSED, PauseState.UNKNOWN


def read_pause(url: str | None, profile_id: str, *, timeout_seconds: float = 60, **options: Any) -> PauseAnswer:
    """What `recon.pause` reads, with a minute for each attempt unless the test is about time."""
    return pause.read_pause(url, profile_id, timeout_seconds=timeout_seconds, **options)


class StatusServer(ThreadingHTTPServer):
    """Gives the prepared answers (status, body, headers) in turn, the last one for ever; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.asked: list[BaseHTTPRequestHandler] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def say(self, body: str | bytes, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else body.encode()
        self.answers.append((status, content, headers))


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer

    def do_GET(self) -> None:
        self.server.asked.append(self)
        answers = self.server.answers
        status, body, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[StatusServer]:
    with StatusServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def slow_server() -> Iterator[Callable[[bytes], str]]:
    """Starts a server that sends `head`, then a byte every 50 ms for 30 s at most; at the end nobody still listens."""
    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(head: bytes) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # nobody came in time
            return
        with connection, contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(600):
                time.sleep(0.05)
                connection.sendall(b"x")

    def start(head: bytes) -> str:
        threads.append(threading.Thread(target=drip, args=(head,), daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    with contextlib.suppress(OSError):  # a thread to which nobody came waits no longer
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(25)
        assert not thread.is_alive(), "the client let go of the connection"
    listener.close()


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("PAUSED", PAUSED),
        (" paused\r\n", PAUSED),
        ('{"status": "Paused"}', PAUSED),
        ('{"state": " PAUSED "}', PAUSED),
        ('{"trading_status": "PAUSED", "since": "2026-03-01T09:00:00Z"}', PAUSED),
        ('{"status": "PAUSED", "state": "paused"}', PAUSED),
        ('{"status": "PAUSED", "profile_id": "main"}', PAUSED),
        ('{"status": "RUNNING", "profiles": {"main": "PAUSED"}}', PAUSED),
        ('{"profiles": {"main": {"state": "PAUSED"}, "other": "RUNNING"}}', PAUSED),
        ('{"profiles": {"main": {"state": "PAUSED", "profile": "main"}}}', PAUSED),
        ("RUNNING", NOT_PAUSED),
        ("UNPAUSED", NOT_PAUSED),
        ("NOT-PAUSED", NOT_PAUSED),
        ('{"status": "RUNNING"}', NOT_PAUSED),
        ('{"status": "paused by admin"}', NOT_PAUSED),
        ('{"status": "pau\\u017fed"}', NOT_PAUSED),
        ('{"status": "PAUSED", "profiles": {"main": "RUNNING"}}', NOT_PAUSED),
        ("", UNKNOWN),
        (" \n", UNKNOWN),
        ("PAUSED PAUSED", UNKNOWN),
        ("trading is PAUSED", UNKNOWN),
        ("<html>PAUSED</html>", UNKNOWN),
        ('"PAUSED"', UNKNOWN),
        ('["PAUSED"]', UNKNOWN),
        ('{"status": "PAUSED"', UNKNOWN),
        ('{"status": "PAUSED"} PAUSED', UNKNOWN),
        ("{}", UNKNOWN),
        ('{"Status": "PAUSED"}', UNKNOWN),
        ('{"paused": true}', UNKNOWN),
        ('{"status": true}', UNKNOWN),
        ('{"status": ""}', UNKNOWN),
        ('{"status": ["PAUSED"]}', UNKNOWN),
        ('{"status": "PAUSED", "state": null}', UNKNOWN),
        ('{"status": "PAUSED", "state": "RUNNING"}', UNKNOWN),
        ('{"status": "RUNNING", "status": "PAUSED"}', UNKNOWN),
        ('{"status": "PAUSED", "profile_id": "other"}', UNKNOWN),
        ('{"status": "PAUSED", "profile": "other"}', UNKNOWN),
        ('{"status": "PAUSED", "profile_id": "main", "profile": "other"}', UNKNOWN),
        ('{"status": "PAUSED", "profile_id": null}', UNKNOWN),
        ('{"profile_id": "other", "profiles": {"main": "PAUSED"}}', UNKNOWN),
        ('{"profiles": {"main": {"status": "PAUSED", "profile_id": "other"}}}', UNKNOWN),
        ('{"status": "PAUSED", "profiles": {"other": "PAUSED"}}', UNKNOWN),
        ('{"status": "PAUSED", "profiles": {"MAIN": "PAUSED"}}', UNKNOWN),
        ('{"status": "PAUSED", "profiles": ["main"]}', UNKNOWN),
        ('{"status": "PAUSED", "profiles": {}}', UNKNOWN),
        ('{"profiles": {"main": null}}', UNKNOWN),
        ('{"profiles": {"main": {}}}', UNKNOWN),
        ('{"profiles": {"main": {"status": "PAUSED", "status": "RUNNING"}}}', UNKNOWN),
        ('{"a": ' * 5000 + "1" + "}" * 5000, UNKNOWN),
        (b"\xff\xfeP\x00A\x00U\x00S\x00E\x00D\x00", UNKNOWN),
        (b"\xef\xbb\xbfPAUSED", UNKNOWN),
    ],
)
def test_what_a_body_means(server: StatusServer, body: str | bytes, state: PauseState) -> None:
    server.say(body)
    assert read_pause(server.url, "main").state is state
    assert len(server.asked) == 1


def test_a_numeric_profile_may_be_named_as_a_number(server: StatusServer) -> None:
    server.say('{"profile_id": 7, "status": "PAUSED"}')
    assert read_pause(server.url, "7").state is PAUSED
    assert read_pause(server.url, "8").state is UNKNOWN


@pytest.mark.parametrize("tail", ["", "/", "/api", "/api/"])
def test_the_address_and_the_token(server: StatusServer, tail: str) -> None:
    server.say("PAUSED")
    profile = "a&b=c/ü 🙂#?"
    assert read_pause(server.url + tail, profile, token="geheim").state is PAUSED
    (asked,) = server.asked
    parts = urlsplit(asked.path)
    assert parts.path == tail.rstrip("/") + "/internal/trading/status"
    assert parse_qs(parts.query, strict_parsing=True) == {"profile_id": [profile]}
    assert asked.headers["Authorization"] == "Bearer geheim"


def test_without_a_token_none_is_sent_and_the_user_of_the_url_is(server: StatusServer) -> None:
    server.say("PAUSED")
    read_pause(server.url, "main")
    read_pause(server.url.replace("//", "//anna:geheim@"), "main")
    assert [asked.headers["Authorization"] for asked in server.asked] == [None, "Basic YW5uYTpnZWhlaW0="]


def test_a_token_outranks_the_user_of_the_url(server: StatusServer) -> None:
    server.say("PAUSED")
    read_pause(server.url.replace("//", "//anna:geheim@"), "main", token="t0ken")
    assert server.asked[0].headers["Authorization"] == "Bearer t0ken"


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 403, 404])
def test_any_other_status_is_unknown_at_once(server: StatusServer, status: int) -> None:
    server.say("" if status == 204 else "PAUSED", status, Location=f"{server.url}/elsewhere")
    server.say("PAUSED")
    answer = read_pause(server.url, "main")
    assert answer.state is UNKNOWN
    assert f"HTTP {status}, expected 200" in answer.detail
    assert len(server.asked) == 1, "neither asked again nor followed"


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_asked_again(server: StatusServer, status: int) -> None:
    server.say("PAUSED", status)
    server.say('{"status": "PAUSED"}')
    assert read_pause(server.url, "main").state is PAUSED
    assert len(server.asked) == 2


def test_a_lasting_failure_is_asked_three_times(server: StatusServer) -> None:
    server.say("PAUSED", 500)
    started = time.monotonic()
    answer = read_pause(server.url, "main")
    assert answer.state is UNKNOWN
    assert "HTTP 500" in answer.detail
    assert len(server.asked) == 3
    assert time.monotonic() - started > 0.3


def test_one_attempt_is_one_request(server: StatusServer) -> None:
    server.say("PAUSED", 503)
    server.say("PAUSED")
    assert read_pause(server.url, "main", attempts=1).state is UNKNOWN
    assert len(server.asked) == 1


def test_an_answer_up_to_the_limit_is_read_and_a_longer_one_is_not(server: StatusServer) -> None:
    server.say("PAUSED".ljust(MAX_ANSWER_BYTES))
    server.say("PAUSED".ljust(MAX_ANSWER_BYTES + 1))
    assert read_pause(server.url, "main").state is PAUSED
    answer = read_pause(server.url, "main")
    assert answer.state is UNKNOWN
    assert "longer than 65536 bytes" in answer.detail


def test_a_compressed_answer_is_not_unpacked(server: StatusServer) -> None:
    server.say(b"\x1f\x8b\x08\x00PAUSED", **{"Content-Encoding": "gzip"})
    assert read_pause(server.url, "main").state is UNKNOWN
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="nothing but garbage"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nPAUSED", id="body"),
    ],
)
def test_a_dripping_server_does_not_hold_anyone(slow_server: Callable[[bytes], str], head: bytes) -> None:
    url = slow_server(head)
    started = time.monotonic()
    answer = read_pause(url, "main", attempts=1, timeout_seconds=0.4)
    assert answer.state is UNKNOWN
    assert "within 0.4 s" in answer.detail
    assert 0.3 < time.monotonic() - started < 25


def test_a_silent_server_does_not_hold_anyone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        answer = read_pause(url, "main", attempts=2, timeout_seconds=0.3)
    assert answer.state is UNKNOWN
    assert "within 0.3 s" in answer.detail
    assert time.monotonic() - started > 0.6


def test_a_name_server_that_hangs_does_not_hold_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(60) and [])
    started = time.monotonic()
    answer = read_pause("http://hangs.invalid", "main", attempts=1, timeout_seconds=0.2)
    assert time.monotonic() - started < 50
    answered.set()
    assert answer.state is UNKNOWN
    assert "within 0.2 s" in answer.detail


def test_a_server_that_closes_early_is_unknown(server: StatusServer) -> None:
    """The body promised is longer than the body sent."""
    server.say("PAUSED", **{"Content-Length": "10"})
    answer = read_pause(server.url, "main", attempts=1)
    assert answer.state is UNKNOWN
    assert "gave no answer (RemoteProtocolError)" in answer.detail


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        answer = read_pause(f"http://127.0.0.1:{taken.getsockname()[1]}", "main", attempts=1)
    assert answer.state is UNKNOWN
    assert "gave no answer (ConnectError)" in answer.detail


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://127.0.0.1", "http://", "http://a:b:c", "://", "x"])
def test_an_address_that_is_none(url: str) -> None:
    answer = read_pause(url, "main")
    assert answer.state is UNKNOWN
    assert "not an http or https address" in answer.detail


@pytest.mark.parametrize("url", [None, ""])
def test_without_an_address_the_state_is_unknown(url: str | None) -> None:
    answer = read_pause(url, "main")
    assert answer.state is UNKNOWN
    assert "set RECON_TRADING_STATUS_URL" in answer.detail
    assert answer.at.utcoffset() is not None


@pytest.mark.parametrize("body", ["geheim", "RUNNING", "<html>geheim</html>", '{"status": "geheim"}'])
def test_no_sentence_holds_a_secret(server: StatusServer, body: str) -> None:
    server.say(body)
    server.say(body, 401)
    server.say(body, 500)
    url = server.url.replace("//", "//anna:geheim@") + "/?key=geheim"
    answers = [read_pause(url, "main", token="geheim", attempts=1) for _ in range(3)]
    answers += [
        read_pause("http://anna:geheim@127.0.0.1:1/", "main", token="geheim", attempts=1),
        read_pause("gopher://anna:geheim@127.0.0.1:1/", "main", token="geheim"),
        read_pause(server.url, "main", token="geheim\r\nX: y", attempts=1),
    ]
    assert all("geheim" not in answer.detail for answer in answers)
    assert answers[-1].state is UNKNOWN


def test_a_proxy_of_the_environment_is_not_asked(server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.say("PAUSED")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert read_pause(server.url, "main", attempts=1).state is PAUSED


def test_it_can_be_asked_where_a_loop_already_runs(server: StatusServer) -> None:
    """As in a notebook's kernel."""
    server.say("PAUSED")

    async def cell() -> PauseState:
        return read_pause(server.url, "main").state

    assert asyncio.run(cell()) is PAUSED

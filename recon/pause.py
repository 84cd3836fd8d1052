"""The pause gate: one question to the backend's status address, and only a clear PAUSED is a yes.

Rule's source: runbook section 2; invariant 10. A yes is HTTP 200 and the word PAUSED (any case, trimmed) as the whole
text, or in `status`, `state` or `trading_status` of a JSON object; where it has `profiles`, the profile's entry there
alone decides. Another word is NOT_PAUSED; whatever is not understood, or names another profile, is UNKNOWN. Entry
point: `read_pause`. Nothing is written.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from recon.strictjson import parse_object

STATUS_PATH = "/internal/trading/status"
"""Appended to the base URL (runbook section 2)."""

MAX_ANSWER_BYTES = 64 * 1024
"""An answer longer than this is not a status."""

_STATE_KEYS = ("status", "state", "trading_status")
_NAME_KEYS = ("profile_id", "profile")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_PAUSED = re.compile("paused", re.IGNORECASE | re.ASCII)


class PauseState(StrEnum):
    """What the status address said about the profile."""

    PAUSED = "paused"
    NOT_PAUSED = "not_paused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """One answer: the state, a sentence for the report without any secret, and when it was read (UTC)."""

    state: PauseState
    detail: str
    at: datetime


class _Unreadable(Exception):
    """The answer cannot be understood; asking again would not help."""


class _NoAnswer(_Unreadable):
    """No answer, or one that asks to come back; asking again may help."""


def read_pause(
    url: str | None, profile_id: str, *, token: str | None = None, attempts: int = 3, timeout_seconds: float = 2.0
) -> PauseAnswer:
    """Whether trading of the profile is paused, asked over HTTP; never raises for network or answer trouble.

    Each attempt ends after `timeout_seconds` in all, however slowly the server speaks. Silence, 5xx and 429 are asked
    again up to `attempts` times, with short waits between. `url` None is UNKNOWN.
    """
    try:
        word = _ask(url, profile_id, token, attempts, timeout_seconds)
    except _Unreadable as problem:
        state, detail = PauseState.UNKNOWN, f"The pause state of profile {profile_id!r} is unknown: {problem}."
    else:
        state = PauseState.PAUSED if _PAUSED.fullmatch(word) else PauseState.NOT_PAUSED
        detail = f"The status address answered {word[:40]!r} for profile {profile_id!r}."
    return PauseAnswer(state, detail.replace(token, "***") if token else detail, datetime.now(UTC))


def _ask(url: str | None, profile_id: str, token: str | None, attempts: int, seconds: float) -> str:
    address = _status_address(url, profile_id)
    headers = {b"Accept-Encoding": b"identity"}
    if token:
        address = address.copy_with(userinfo=b"")
        headers[b"Authorization"] = b"Bearer " + token.encode()
    again = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=0.2, max=1),
        retry=retry_if_exception_type(_NoAnswer),
        reraise=True,
    )
    return _understand(again(_attempt, address, headers, seconds), profile_id)


def _status_address(url: str | None, profile_id: str) -> httpx.URL:
    if not url:
        raise _Unreadable("no status URL is set; set RECON_TRADING_STATUS_URL")
    try:
        base = httpx.URL(url.strip())
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise _Unreadable("RECON_TRADING_STATUS_URL is not an http or https address; correct it")
    path = base.path.rstrip("/") + STATUS_PATH
    return base.copy_with(path=path).copy_set_param("profile_id", profile_id)


def _attempt(address: httpx.URL, headers: Mapping[bytes, bytes], seconds: float) -> bytes:
    """The body of a 200, or what went wrong.

    A read time-out alone never ends a server that sends a byte a second, so asyncio cancels the whole exchange. It
    runs in a thread because a notebook's kernel already has a loop; the wait ends even if a name look-up hangs.
    """
    pool = ThreadPoolExecutor(1)
    try:
        answer = pool.submit(asyncio.run, _get(address, headers, seconds))
        status, body = answer.result(timeout=seconds + 0.5)
    except TimeoutError:
        raise _NoAnswer(
            f"the status server did not answer in full within {seconds:g} s; check that it runs and its load"
        ) from None
    except (httpx.HTTPError, OSError) as error:
        kind = type(error).__name__
        raise _NoAnswer(f"the status server gave no answer ({kind}); check its address and that it runs") from None
    finally:
        pool.shutdown(wait=False)
    if status == 429 or status >= 500:
        raise _NoAnswer(f"the status server answered HTTP {status}, expected 200; check its log")
    if status != 200:
        raise _Unreadable(f"the status server answered HTTP {status}, expected 200; check its address and the token")
    return body


async def _get(address: httpx.URL, headers: Mapping[bytes, bytes], seconds: float) -> tuple[int, bytes]:
    """Status and body of one answer.

    The environment's proxies and netrc are left aside (trust_env): the switch is a service of the backend's own
    network, often on loopback, and a proxy must neither see the token nor answer in its place. Certificates are judged
    by the system's store (or SSL_CERT_FILE), where a private authority is known; reading it takes a while, so only
    where there is one.
    """
    verify = ssl.create_default_context() if address.scheme == "https" else False
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=seconds, verify=verify) as client,
        client.stream("GET", address, headers=dict(headers)) as response,
    ):
        body = b""
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                raise _Unreadable(f"the answer is longer than {MAX_ANSWER_BYTES} bytes; check the address")
        return response.status_code, body


def _understand(body: bytes, profile_id: str) -> str:
    try:
        text = body.decode().strip()
        if _WORD.fullmatch(text):
            return text
        answer = parse_object(text)
    except ValueError:
        raise _Unreadable("the answer is neither one word nor a JSON object with unique keys") from None
    return _state_in_object(answer, profile_id)


def _state_in_object(answer: Mapping[str, object], profile_id: str) -> str:
    _check_name(answer, profile_id)
    if "profiles" not in answer:
        return _state_word(answer)
    profiles = answer["profiles"]
    if not isinstance(profiles, dict) or profile_id not in profiles:
        raise _Unreadable("the answer's `profiles` object does not hold this profile")
    own = profiles[profile_id]
    if not isinstance(own, dict):
        return _state_word({"status": own})
    _check_name(own, profile_id)
    return _state_word(own)


def _check_name(answer: Mapping[str, object], profile_id: str) -> None:
    if any(str(answer[key]) != profile_id for key in _NAME_KEYS if key in answer):
        raise _Unreadable("the answer names another profile; check the status server")


def _state_word(answer: Mapping[str, object]) -> str:
    """The one state that the object gives; several keys may give it if they agree on paused or not."""
    words = [answer[key] for key in _STATE_KEYS if key in answer]
    texts = [word.strip() for word in words if isinstance(word, str) and word.strip()]
    if not texts or len(texts) < len(words):
        raise _Unreadable(f"the answer has no readable {', '.join(_STATE_KEYS)}")
    if len({_PAUSED.fullmatch(text) is None for text in texts}) > 1:
        raise _Unreadable(f"{', '.join(_STATE_KEYS)} of the answer contradict each other")
    return texts[0]

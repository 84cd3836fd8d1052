"""Interrupts: Ctrl-C, and what systemd, cron or a lost terminal send instead, end a command in the same way.

Whoever writes a report holds them off, so that a report that was begun is finished. Only the handlers of this process
are changed; a signal that is ignored (nohup, a background job) stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a command to end."""

Handler = Callable[[int, FrameType | None], object]


def listen() -> None:
    """From now on each of these signals raises `KeyboardInterrupt`, as Ctrl-C does."""
    for number in INTERRUPTS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def held_off() -> Iterator[None]:
    """Let nothing interrupt the block; raises `KeyboardInterrupt` after it, if something tried to."""
    came: list[int] = []
    with _handled_by(lambda number, _: came.append(number)):
        yield
    if came:
        raise KeyboardInterrupt


@contextmanager
def heard() -> Iterator[None]:
    """Let the block be interrupted, inside one that holds interrupts off."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Replaces the handlers that stand; only the main thread has any."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in INTERRUPTS if main}
    standing = {number: old for number, old in before.items() if callable(old)}
    for number in standing:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in standing.items():
            signal.signal(number, old)

"""The moments between recon's statements: before each connection, each statement and each COMMIT, and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

CONNECT, COMMIT, COMMITTED = "connect", "COMMIT", "after COMMIT"


class Boundaries:
    """Counts the boundaries that an engine comes to, and calls `act` at one of them (`at`, counted from 0)."""

    def __init__(self, engine: sa.Engine, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self.seen: list[str] = []
        self._at, self._act = at, act
        event.listen(engine, "do_connect", lambda *_: self._reach(CONNECT))
        event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: self._reach(statement))
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            self._reach(COMMIT)
            commit(connection)
            self._reach(COMMITTED)

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]

    def _reach(self, what: str) -> None:
        self.seen.append(what)
        if len(self.seen) - 1 == self._at:
            self._act()

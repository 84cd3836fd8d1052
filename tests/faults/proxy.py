"""A loopback port before a server's socket, that cuts a connection at a chosen message or after a chosen byte."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

UP, DOWN = "up", "down"
"""What the client says, and what the server says."""


class Proxy:
    """Forwards until told otherwise.

    `cut` is called with each message of a client that has locked the table, and says what to do with it: `pass`, or,
    once, cut `before` it, right `after` it, when its answer is there (`lost`), or after so many of its bytes.
    `cut_after` instead counts every byte of one direction over all connections, and cuts the connection on which the
    count is reached: even counts end it, odd ones reset it. `deaf` hangs up on whoever connects.
    """

    def __init__(self, database_url: str, password: str | None = None) -> None:
        url = sa.make_url(database_url)
        self._upstream = f"{url.query['host']}/.s.PGSQL.{url.query['port']}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        through = url.set(host="127.0.0.1", port=port, password=password, query={})
        self.url = through.render_as_string(hide_password=False)
        self.cut: Callable[[bytes], str] | None = None
        self.deaf = False
        self.passed = {UP: 0, DOWN: 0}
        self.struck = False
        self._way, self._left = "", -1
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def cut_after(self, way: str, count: int) -> None:
        """Forward so many bytes of this direction, counted from now, then cut; -1 never cuts."""
        with self._guard:
            self.passed = {UP: 0, DOWN: 0}
            self._way, self._left, self.struck = way, count, False

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection, in one thread: a socket that another thread reads could not be reset."""
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            if self.deaf:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.connect(self._upstream)
            self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        armed = False
        while True:
            ready, _, _ = select.select((client, server), (), ())
            way, source, sink = (UP, client, server) if client in ready else (DOWN, server, client)
            message = source.recv(1 << 16)
            if not message:
                return
            armed = armed or b"LOCK TABLE" in message
            verdict = self.cut(message) if self.cut and armed and way is UP else "pass"
            if verdict != "pass":
                self.cut = None
                self._end(client, server, message, verdict)
                return
            inside = self._inside(way, len(message))
            sink.sendall(message[:inside])
            if inside < len(message):
                if self._left % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return

    def _inside(self, way: str, size: int) -> int:
        """How much of a message may still pass."""
        with self._guard:
            may = self._left - self.passed[way] if way == self._way and self._left >= 0 and not self.struck else size
            self.struck = self.struck or may < size
            self.passed[way] += size
        return min(may, size)

    def _end(self, client: socket.socket, server: socket.socket, message: bytes, verdict: str) -> None:
        """Cut before the message, right after it, after some bytes of it, or (`lost`) when its answer is there."""
        if verdict == "after":
            client.shutdown(socket.SHUT_RDWR)
        server.sendall(message[: int(verdict)] if verdict.isdigit() else b"" if verdict == "before" else message)
        if verdict == "lost":
            select.select((server,), (), (), 60)
        if verdict == "after":  # it is for the server to find out, once it has worked on the message
            while server.recv(1 << 16):
                pass


@contextmanager
def proxy(database_url: str, password: str | None = None) -> Iterator[Proxy]:
    """A proxy before the server of this database."""
    made = Proxy(database_url, password)
    try:
        yield made
    finally:
        made.close()

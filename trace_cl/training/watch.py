"""Noticing that a rank has died, so that the others do not wait for it in a collective operation for hours.

Every rank keeps a connection open to the first. The system closes it when a process ends, in whatever way, and probes a
machine that is silent. A process that is only busy, or held up, keeps its connection: it is never taken for a dead one.
"""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from secrets import token_bytes
from select import select
from threading import Event, Thread
from typing import Any

GRACE = 10.0
"""Seconds between the loss of a rank and the end of the others: who started them, or they themselves, may know more."""

PROBES = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A machine that is gone is noticed after this many seconds of silence, and so many unanswered probes."""

FAREWELL, ALARM = b".", b"!"


class Watch:
    """Ends this process where another rank has ended without a farewell; one sentence says so."""

    def __init__(self, connections: dict[socket.socket, int]) -> None:
        self.connections = connections
        self.left = Event()
        self.thread = Thread(target=self._watch, daemon=True)
        self.thread.start()

    @classmethod
    def begin(cls, rank: int, size: int, host: str, broadcast: Callable[[Any], Any]) -> "Watch":
        """All ranks call it in step; the first one can be reached at `host`."""
        if rank > 0:
            port, secret = broadcast(None)
            first = socket.create_connection((host, port), timeout=60)
            first.sendall(secret + rank.to_bytes(4, "big"))
            return cls({_probed(first): 0})
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        connections: dict[socket.socket, int] = {}
        with socket.create_server(("", 0), family=family, backlog=size, dualstack_ipv6=both) as server:
            secret = token_bytes(16)
            broadcast((server.getsockname()[1], secret))
            server.settimeout(60)
            while len(connections) < size - 1:
                connection, _ = server.accept()
                connection.settimeout(60)
                said = connection.recv(20, socket.MSG_WAITALL)
                if said[:16] == secret:  # and no stranger
                    connections[_probed(connection)] = int.from_bytes(said[16:], "big")
        return cls(connections)

    def leave(self, politely: bool = True) -> None:
        """Watch no more. A rank that leaves politely does not alarm the others, and waits for the first to leave:
        whoever started them may take the end of one for a sign to end the rest."""
        self.left.set()
        self.thread.join()
        for connection, rank in self.connections.items():
            with suppress(OSError):
                if politely:
                    connection.sendall(FAREWELL)
                    if rank == 0:
                        connection.recv(1)
            connection.close()

    def _watch(self) -> None:
        present = dict(self.connections)
        while present and not self.left.is_set():
            for connection in select(present, [], [], 0.5)[0]:
                rank, said = present.pop(connection), b""
                with suppress(OSError):
                    said = connection.recv(1)
                if said != FAREWELL:
                    self._end(rank, said)

    def _end(self, rank: int, said: bytes) -> None:
        if said != ALARM:
            if self.left.wait(GRACE):
                return
            print(
                f"\nerror: rank {rank} has died, and the run ends with it; the same command goes on",
                file=sys.stderr,
                flush=True,
            )
        for connection in self.connections:
            with suppress(OSError):
                connection.sendall(ALARM)
        os._exit(1)


def _probed(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in PROBES.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return connection

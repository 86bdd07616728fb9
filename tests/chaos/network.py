"""The network between the nodes of a RabbitMQ cluster, which can be partitioned.

Erlang nodes query an epmd for the port of another node. Each node here has an epmd of its own,
which returns a proxy's port for each other node. The proxies can break the line between two nodes
from either end, without privileges on the machine's network.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import permutations

from devstack.servers.rabbitmq import PrivateNode
from support.proxy import Line, Proxy

# https://www.erlang.org/doc/apps/erts/erl_dist_protocol.html, "EPMD Protocol"
_ALIVE, _PORT, _NAMES = 120, 122, 110
_ALIVE_ANSWER, _PORT_ANSWER = 118, 119
_NORMAL_NODE, _TCP, _HIGHEST, _LOWEST = 77, 0, 6, 5


class Links:
    """The lines between nodes. Created before the nodes, because it provides their epmd ports;
    `connect` registers the nodes."""

    def __init__(self, names: Sequence[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="epmd", daemon=True)
        self._thread.start()
        self._names = names
        self._epmds = {name: _Epmd(self._loop) for name in names}
        self._proxies: dict[tuple[str, str], Proxy] = {}

    def epmd_port(self, name: str) -> int:
        return self._epmds[name].port

    def connect(self, nodes: Iterable[PrivateNode]) -> None:
        ports = {node.name.partition("@")[0]: node.distribution_port for node in nodes}
        for one, other in permutations(self._names, 2):
            self._proxies[one, other] = proxy = Proxy([ports[other]])
            self._epmds[one].peers[other] = proxy.port

    def partition(self, line: Line, *sides: Sequence[str]) -> None:
        """Break the lines between nodes on different sides, as `line` says."""
        side = {name: number for number, names in enumerate(sides) for name in names}
        for (one, other), proxy in self._proxies.items():
            if side[one] != side[other]:
                proxy.line(line)

    def heal(self) -> None:
        for proxy in self._proxies.values():
            proxy.line(Line.GOOD)

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class _Epmd:
    """The epmd of one node and of the command-line tools that talk to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.peers: dict[str, int] = {}
        self._registered: dict[str, int] = {}
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, loop).result()
        self.port: int = server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            request = await reader.readexactly(length)
            kind, rest = request[0], request[1:]
            if kind == _ALIVE:
                await self._register(rest, reader, writer)
            elif kind == _PORT:
                writer.write(self._port_answer(rest.decode()))
            elif kind == _NAMES:
                lines = [f"name {name} at port {at}\n" for name, at in self._registered.items()]
                writer.write(struct.pack("!I", self.port) + "".join(lines).encode())
            with suppress(ConnectionError):
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _register(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Register a node for as long as its connection is open."""
        (port,) = struct.unpack("!H", request[:2])
        (length,) = struct.unpack("!H", request[8:10])
        name = request[10 : 10 + length].decode()
        self._registered[name] = port
        writer.write(struct.pack("!BBI", _ALIVE_ANSWER, 0, port))
        with suppress(ConnectionError):
            await writer.drain()
            await reader.read()
        if self._registered.get(name) == port:
            del self._registered[name]

    def _port_answer(self, name: str) -> bytes:
        port = self._registered.get(name) or self.peers.get(name)
        if port is None:
            return struct.pack("!BB", _PORT_ANSWER, 1)
        encoded = name.encode()
        head = (_PORT_ANSWER, 0, port, _NORMAL_NODE, _TCP, _HIGHEST, _LOWEST, len(encoded))
        return struct.pack("!BBHBBHHH", *head) + encoded + struct.pack("!H", 0)

"""A name server on this host, whose names can be given other addresses at any time."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

HOST = "127.0.0.1"


class NameServer(BaseResolver):  # type: ignore[misc]
    """Knows one name, `seqserve.test`, and the IPv4 addresses that it stands for."""

    name = "seqserve.test"

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self._server = DNSServer(self, address=HOST, port=0, logger=DNSLogger("-request,-reply"))
        self.port: int = self._server.server.server_address[1]

    def __enter__(self) -> Self:
        """The name server, which answers."""
        self._server.start_thread()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self._server.stop()
        self._server.server.server_close()

    def point_to(self, *addresses: str) -> None:
        """Gives the name these addresses instead."""
        self._addresses = addresses

    def resolve(self, request: DNSRecord, _: DNSHandler) -> DNSRecord:
        """The answer to a question; the library's name for it."""
        reply = request.reply()
        if request.q.qtype in (QTYPE.A, QTYPE.ANY) and request.q.qname == self.name:
            for address in self._addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=1))
        return reply

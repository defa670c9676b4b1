"""What one connection may do, on either transport: calls at a time, silence, age, metadata."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.calls import CLASSIFY
from benchmarks.http2 import (
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Connection,
    frame,
    header_block,
    prefixed,
)
from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_client import Client
from seqserve_server.errors import InvalidSetting
from seqserve_server.options import Transport
from seqserve_server.settings import Settings

if TYPE_CHECKING:
    from tests.server.conftest import Gate, Running, RunServer

MakeSequences = Callable[..., list[NDArray[np.float32]]]
MakeRequest = Callable[..., ClassifyRequest]

TIMEOUT_S = 60.0
PINGS = 50
# Of 1,000 calls that wait gRPC refuses some, of 3,000 all, unless it is told otherwise.
CONNECTIONS = 20
CALLS_OF_EACH = 160


@contextmanager
def connected(server: Running) -> Iterator[Connection]:
    """A connection whose frames the test chooses."""
    with closing(Connection(server.server.address)) as connection:
        yield connection


@pytest.fixture
def begin(
    make_request: MakeRequest, make_sequences: MakeSequences
) -> Callable[[Connection, int], None]:
    """Opens a stream with a call of Classify."""
    body = prefixed(make_request("gru", make_sequences(5)).SerializeToString())

    def call(connection: Connection, stream: int) -> None:
        connection.begin(stream, header_block("test", CLASSIFY, ()), body)

    return call


def test_a_connection_has_as_many_calls_at_a_time_as_it_may(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    begin: Callable[[Connection, int], None],
) -> None:
    with (
        run_server(
            models, open_session=gate.open_session, lanes=4, max_concurrent_streams=2
        ) as server,
        connected(server) as connection,
        connected(server) as other,
    ):
        assert connection.max_streams == 2
        gate.shut()
        for stream in (1, 3):
            begin(connection, stream)
            connection.exchange(0)
            gate.wait_for_a_run()
        begin(connection, 5)  # a client that keeps to what it was told would wait
        assert {event[:2] for event in _events(connection)} == {(5, RST_STREAM)}
        begin(other, 1)
        other.exchange(0)
        gate.wait_for_a_run()
        gate.open()
        over = {stream for stream, kind, _, over in _until(connection, 2) if over}
        assert over - {5} == {1, 3}


def test_calls_of_a_client_beyond_the_limit_are_answered_too(
    run_server: RunServer, models: Path, make_sequences: MakeSequences
) -> None:
    # grpcio counts a call until it has cleared it away, and refuses some of those that follow at
    # once; the client tries them again.
    [sequence] = make_sequences(5)
    with (
        run_server(models, max_concurrent_streams=8) as server,
        Client(server.server.address, coalesce_sequences=1) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = pool.map(lambda _: client.classify([sequence], model="gru"), range(240))
        assert len({answer.logits.tobytes() for answer in answers}) == 1


def test_a_silent_peer_that_answers_no_ping_is_disconnected(
    run_server: RunServer, models: Path
) -> None:
    with run_server(models, keepalive_s=1.0, keepalive_timeout_s=1.0) as server:
        host, _, port = server.server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as peer:
            peer.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
            _read_to_the_end(peer)


def test_a_peer_that_answers_its_pings_stays(
    run_server: RunServer, models: Path, begin: Callable[[Connection, int], None]
) -> None:
    with (
        run_server(models, keepalive_s=1.0, keepalive_timeout_s=1.0) as server,
        connected(server) as connection,
        ThreadPoolExecutor() as pool,
    ):
        host, _, port = server.server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as silent:
            silent.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
            gone = pool.submit(_read_to_the_end, silent)
            while not gone.done():
                connection.exchange(0.1)
            gone.result()
        begin(connection, 1)
        assert [event for event in _until(connection, 1) if event[3]]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with a call"])
def test_a_connection_that_has_reached_its_age_ends_its_calls_and_closes(
    run_server: RunServer,
    models: Path,
    gate: Gate,
    begin: Callable[[Connection, int], None],
    transport: Transport,
    busy: bool,
) -> None:
    if transport is Transport.NATIVE:
        pytest.skip("it knows no age: see test_the_native_transport_refuses_what_it_cannot_do")
    with (
        run_server(models, open_session=gate.open_session, max_connection_age_s=0.2) as server,
        connected(server) as connection,
    ):
        if busy:
            gate.shut()
            begin(connection, 1)
            connection.exchange(0)
            gate.wait_for_a_run()
        while connection.goes_away is None:
            connection.exchange(None)
        assert "max_age" in connection.goes_away
        gate.open()
        if busy:
            assert [kind for _, kind, _, over in _until(connection, 1) if over] != [RST_STREAM]
        _until_closed(connection)


def test_no_call_fails_where_connections_reach_their_age(
    run_server: RunServer,
    models: Path,
    make_request: MakeRequest,
    make_sequences: MakeSequences,
    transport: Transport,
) -> None:
    if transport is Transport.NATIVE:
        pytest.skip("it knows no age: see test_the_native_transport_refuses_what_it_cannot_do")
    with run_server(models, max_connection_age_s=0.05) as server:
        request = make_request("gru", make_sequences(5))
        for _ in range(4):  # ages of a connection as old as the caller's, or younger
            with connected(server) as connection:
                while connection.goes_away is None:
                    server.classifier.Classify(request, timeout=TIMEOUT_S)
                    connection.exchange(0)


def test_a_connection_without_calls_is_closed_where_it_may_not_idle(
    run_server: RunServer, models: Path, transport: Transport
) -> None:
    if transport is Transport.NATIVE:
        pytest.skip("it knows no idleness: see test_the_native_transport_refuses_what_it_cannot_do")
    with run_server(models, max_connection_idle_s=0.2) as server, connected(server) as connection:
        _until_closed(connection)
        assert connection.goes_away == "connection idle"


@pytest.mark.parametrize("setting", ["max_connection_age_s", "max_connection_idle_s"])
def test_the_native_transport_refuses_what_it_cannot_do(models: Path, setting: str) -> None:
    asked = {setting: 60.0}
    with pytest.raises(InvalidSetting, match="--transport grpcio"):
        Settings(models, transport=Transport.NATIVE, **asked)  # type: ignore[arg-type]
    assert Settings(models, **asked).grpcio_only  # type: ignore[arg-type]


def test_metadata_beyond_the_limit_are_refused_and_the_connection_goes_on(
    run_server: RunServer, models: Path, transport: Transport
) -> None:
    with run_server(models, max_metadata_bytes=4_000) as server:

        def call(length: int) -> object:
            return server.catalog.ListModels(
                ListModelsRequest(), metadata=(("x-long", "x" * length),), timeout=TIMEOUT_S
            )

        call(3_000)
        refusal = server.failure(lambda: call(5_000))
        if transport is Transport.NATIVE:  # HTTP's "Request Header Fields Too Large"
            assert refusal.code is grpc.StatusCode.UNKNOWN
            assert "431" in refusal.message
        else:
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "metadata" in refusal.message
        call(3_000)


def test_a_flood_of_pings_harms_nobody_else(
    run_server: RunServer,
    models: Path,
    begin: Callable[[Connection, int], None],
    transport: Transport,
) -> None:
    with (
        run_server(models) as server,
        connected(server) as flooding,
        connected(server) as other,
    ):
        flooding.write(frame(PING, 0, 0, bytes(8)) * PINGS)
        if transport is Transport.NATIVE:  # answers them all
            while flooding.pongs < PINGS:
                flooding.exchange(None)
        else:
            _until_closed(flooding)
            assert flooding.goes_away == "too_many_pings"
        begin(other, 1)
        assert [event for event in _until(other, 1) if event[3]]


def test_a_client_may_ping_every_second(
    run_server: RunServer, models: Path, begin: Callable[[Connection, int], None]
) -> None:
    with run_server(models) as server, connected(server) as connection:
        for pings in range(1, 6):
            connection.write(frame(PING, 0, 0, bytes(8)))
            while connection.pongs < pings:
                connection.exchange(None)
            silent_until = time.monotonic() + 1.0
            while (left := silent_until - time.monotonic()) > 0:
                connection.exchange(left)
        begin(connection, 1)
        assert [event for event in _until(connection, 1) if event[3]]
        assert connection.goes_away is None


def test_more_calls_at_once_than_grpc_would_let_wait_are_answered(
    run_server: RunServer, models: Path, begin: Callable[[Connection, int], None]
) -> None:
    with run_server(models) as server, ExitStack() as stack:
        connections = [stack.enter_context(connected(server)) for _ in range(CONNECTIONS)]
        for connection in connections:
            for call in range(CALLS_OF_EACH):
                begin(connection, 2 * call + 1)
        events: list[list[tuple[int, int, bytes, bool]]] = [[] for _ in connections]
        while any(connection.unsent for connection in connections):
            for connection, its in zip(connections, events, strict=True):
                its += connection.exchange(0)
        for connection, its in zip(connections, events, strict=True):
            while sum(over for *_, over in its) < CALLS_OF_EACH:
                its += _events(connection)
            # A call that is refused ends without a message.
            assert len({stream for stream, _, message, _ in its if message}) == CALLS_OF_EACH


def _events(connection: Connection) -> list[tuple[int, int, bytes, bool]]:
    """What comes next."""
    while not (events := connection.exchange(None)):
        pass
    return events


def _until(connection: Connection, calls: int) -> list[tuple[int, int, bytes, bool]]:
    """What comes until so many calls are over."""
    events: list[tuple[int, int, bytes, bool]] = []
    while len({stream for stream, kind, _, over in events if over and kind != RST_STREAM}) < calls:
        events += _events(connection)
    return events


def _until_closed(connection: Connection) -> None:
    while True:
        try:
            connection.exchange(None)
        except ConnectionError:
            return


def _read_to_the_end(peer: socket.socket) -> None:
    """Reads, and answers nothing, until the server closes the connection."""
    with suppress(ConnectionError):
        while peer.recv(1 << 16):
            pass

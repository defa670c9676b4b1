"""Names whose addresses change while a client lives."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import AsyncClient, Cancelled, Client, renewal
from seqserve_client.testing import FakeServer
from tests.name_server import NameServer

PATIENT_S = 60.0


class Replica(FakeServer):
    """At an address of its own, as a container is; the first one finds the port for all."""

    def __init__(self, host: str, port: int = 0, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._host, self._port = host, port

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def port(self) -> int:
        return self._port


@contextmanager
def named(*replicas: Replica) -> Iterator[tuple[NameServer, str]]:
    """A name server, and how a client is told of the name that it knows."""
    with NameServer(*(replica.address.partition(":")[0] for replica in replicas)) as names:
        yield names, f"dns://127.0.0.1:{names.port}/{names.name}:{replicas[0].port}"


@dataclass
class Clock:
    """By which channels age."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def make_channels_old(self) -> None:
        """The next call has them renewed."""
        self.now += 2 * renewal.AGE_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(renewal, "time", clock)
    return clock


def call(client: Client, until: Callable[[], bool]) -> None:
    """Calls until something holds; it always comes, or the test hangs and is seen to."""
    while not until():
        client.classify([[0.0]], model="model", timeout_s=PATIENT_S)


def test_a_replica_that_comes_back_elsewhere_answers_the_next_call(
    connect: Callable[..., Client],
) -> None:
    with Replica("127.0.0.2") as one, named(one) as (names, address):
        client = connect(address)
        client.classify([[0.0]], model="model")
        with Replica("127.0.0.3", one.port) as two:
            names.point_to("127.0.0.3")
            one.stop()
            client.classify([[0.0]], model="model")
            assert len(two.calls) == 1


def test_a_replica_that_is_added_gets_calls_while_nothing_fails(
    connect: Callable[..., Client], clock: Clock
) -> None:
    with Replica("127.0.0.2") as one, named(one) as (names, address):
        client = connect(address)
        client.classify([[0.0]], model="model")
        with Replica("127.0.0.3", one.port) as two:
            names.point_to("127.0.0.2", "127.0.0.3")
            for _ in range(20):
                client.classify([[0.0]], model="model")
            assert not two.calls
            clock.make_channels_old()
            call(client, until=lambda: len(two.calls) > 5)
            before = len(one.calls)
            call(client, until=lambda: len(one.calls) > before)


def test_a_replica_that_is_taken_out_of_its_name_gets_no_more_calls(
    connect: Callable[..., Client], clock: Clock
) -> None:
    with (
        Replica("127.0.0.2") as one,
        Replica("127.0.0.3", one.port) as two,
        named(one, two) as (names, address),
    ):
        client = connect(address)
        call(client, until=lambda: bool(one.calls and two.calls))
        names.point_to("127.0.0.2")
        clock.make_channels_old()

        def rests() -> bool:
            asked = len(two.calls)
            for _ in range(20):
                client.classify([[0.0]], model="model")
            return len(two.calls) == asked

        while not rests():
            pass


def test_where_a_name_is_known_no_more_its_replicas_answer_on(
    connect: Callable[..., Client], clock: Clock
) -> None:
    with Replica("127.0.0.2") as one, named(one) as (names, address):
        client = connect(address)
        client.classify([[0.0]], model="model")
        names.point_to()
        clock.make_channels_old()
        for _ in range(50):
            client.classify([[0.0]], model="model")
        assert len(one.calls) == 51


class Held:
    """A rule that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, sequence: NDArray[np.float32]) -> str:
        if sequence[0, 0] > 0:
            self.asked.set()
            assert self.go_on.wait(PATIENT_S)
        return "1"


def test_a_call_under_way_ends_where_it_began(clock: Clock) -> None:
    held = Held()
    with (
        Replica("127.0.0.2", answer=held) as one,
        Replica("127.0.0.3", one.port) as two,
        named(one) as (names, address),
        Client(address, coalesce_sequences=1) as client,
    ):
        answers: list[tuple[str, ...]] = []
        caller = threading.Thread(
            target=lambda: answers.append(
                client.classify([[1.0]], model="model", timeout_s=PATIENT_S).labels
            )
        )
        caller.start()
        assert held.asked.wait(PATIENT_S)
        names.point_to("127.0.0.3")
        clock.make_channels_old()
        call(client, until=lambda: len(two.calls) > 5)
        held.go_on.set()
        caller.join()
        assert answers == [("1",)]


def test_closing_cancels_calls_of_channels_that_were_replaced(clock: Clock) -> None:
    held = Held()
    with (
        Replica("127.0.0.2", answer=held) as one,
        Replica("127.0.0.3", one.port) as two,
        named(one) as (names, address),
        Client(address, coalesce_sequences=1) as client,
    ):
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.classify([[1.0]], model="model", timeout_s=PATIENT_S)
            except Cancelled as error:
                errors.append(error)

        caller = threading.Thread(target=ask)
        caller.start()
        assert held.asked.wait(PATIENT_S)
        names.point_to("127.0.0.3")
        clock.make_channels_old()
        call(client, until=lambda: len(two.calls) > 5)
        client.close()
        caller.join()
        held.go_on.set()
        assert len(errors) == 1


@dataclass
class Years(Clock):
    """Channels that are old at every look."""

    def monotonic(self) -> float:
        self.make_channels_old()
        return self.now


def test_every_call_is_answered_while_channels_are_renewed_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[None] = []
    with Replica("127.0.0.2") as one, named(one) as (_, address):
        monkeypatch.setattr(renewal, "time", Years())
        watch_renewals(monkeypatch, opened)

        def ask(_: int) -> None:
            while len(opened) < 300:
                labels = client.classify([[1.0]] * 3, model="model", timeout_s=PATIENT_S).labels
                assert labels == ("1",) * 3

        with (
            Client(address, max_request_sequences=1) as client,
            futures.ThreadPoolExecutor(4) as callers,
        ):
            assert list(callers.map(ask, range(4))) == [None] * 4


def watch_renewals(monkeypatch: pytest.MonkeyPatch, renewals: list[None]) -> None:
    """Adds to a list whenever a channel takes the place of another."""
    replace = renewal._Renewed._replace

    def noted(renewed: renewal._Renewed, coming: grpc.Channel) -> None:
        replace(renewed, coming)
        renewals.append(None)

    monkeypatch.setattr(renewal._Renewed, "_replace", noted)


def test_channels_that_were_replaced_are_closed(
    connect: Callable[..., Client], clock: Clock
) -> None:
    with Replica("127.0.0.2") as one, named(one) as (_, address):
        client = connect(address, max_request_sequences=2)
        assert client.classify([[1.0]] * 9, model="model").labels == ("1",) * 9
        opened = descriptors()
        for _ in range(10):
            clock.make_channels_old()
            assert client.classify([[1.0]] * 9, model="model").labels == ("1",) * 9
        # Each connection has both of its ends in this process; one may be on its way in or out.
        call(client, until=lambda: descriptors() < opened + 5)


def test_a_client_that_is_forgotten_while_it_looks_for_a_name_is_collected(clock: Clock) -> None:
    with Replica("127.0.0.2") as one, named(one) as (names, address):
        client = Client(address)
        client.classify([[0.0]], model="model")
        names.point_to()
        clock.make_channels_old()
        client.classify([[0.0]], model="model")
        renewed: Any = client._channel
        assert renewed._coming is not None
        channels = [weakref.ref(renewed), weakref.ref(renewed._coming)]
        del client, renewed
        while any(channel() is not None for channel in channels):
            gc.collect()


def test_a_closed_client_of_an_event_loop_stays_closed_however_old_it_grows(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[grpc.aio.Channel] = []
    open_one = grpc.aio.insecure_channel

    def noted(*arguments: Any) -> grpc.aio.Channel:  # noqa: ANN401
        opened.append(open_one(*arguments))
        return opened[-1]

    monkeypatch.setattr(grpc.aio, "insecure_channel", noted)

    async def ask_when_closed() -> None:
        client = AsyncClient(address)
        await client.classify([[0.0]], model="model")
        await client.close()
        before = len(opened)
        clock.make_channels_old()
        for _ in range(20):
            with pytest.raises(Cancelled):
                await client.classify([[0.0]], model="model")
            await asyncio.sleep(0)  # whatever the call began, begins
        assert len(opened) == before > 0

    with Replica("127.0.0.2") as one, named(one) as (_, address):
        asyncio.run(ask_when_closed())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

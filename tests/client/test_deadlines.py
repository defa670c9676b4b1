"""The time given to a call holds for all that it is made of."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from seqserve_client import AsyncClient, Client, DeadlineExceeded, InvalidOptions, deadline
from seqserve_client.testing import FakeServer


@pytest.fixture
def stuck() -> Iterator[FakeServer]:
    """A server that answers nothing until the test is over."""
    over = threading.Event()

    def wait(_: object) -> str:
        over.wait(timeout=60)
        return "0"

    with FakeServer(answer=wait) as server:
        try:
            yield server
        finally:
            over.set()


def test_a_call_ends_when_its_time_is_up(connect: Callable[..., Client], stuck: FakeServer) -> None:
    client = connect(stuck.address)
    with pytest.raises(DeadlineExceeded, match=stuck.address):
        client.classify([[0.0]], model="model", timeout_s=0.2)
    with pytest.raises(TimeoutError):
        client.advance([[0.0]], model="model", timeout_s=0.2)


def test_a_cut_batch_ends_when_its_time_is_up(
    connect: Callable[..., Client], stuck: FakeServer
) -> None:
    client = connect(stuck.address, max_request_sequences=1, timeout_s=0.2)
    with pytest.raises(DeadlineExceeded):
        client.classify([[0.0]] * 20, model="model")
    assert len(stuck.calls) <= client.options.max_in_flight


def test_every_piece_has_only_what_is_left_of_the_time(
    connect: Callable[..., Client], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=10.0)  # ten seconds pass whenever somebody looks
    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    client = connect(server.address, max_request_sequences=1, max_in_flight=1)
    client.classify([[0.0]] * 5, model="model", timeout_s=60)
    assert [round(call.time_remaining_s / 10) for call in server.calls] == [5, 4, 3, 2, 1]


def test_time_that_is_up_already_sends_nothing(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    with pytest.raises(DeadlineExceeded):
        connect(server.address).classify([[0.0]], model="model", timeout_s=1e-9)
    assert server.calls == []


def test_the_clients_own_timeout_holds_where_a_call_gives_none(
    connect: Callable[..., Client], server: FakeServer
) -> None:
    connect(server.address, timeout_s=1000).models()
    connect(server.address, timeout_s=1000).models(timeout_s=2000)
    connect(server.address).describe("model")
    own, given, default = (call.time_remaining_s for call in server.calls)
    assert own == pytest.approx(1000, rel=0.1)  # gRPC rounds what it sends
    assert given == pytest.approx(2000, rel=0.1)
    assert default == pytest.approx(30, rel=0.1)


def test_infinite_time_is_no_deadline(connect: Callable[..., Client], server: FakeServer) -> None:
    connect(server.address, timeout_s=math.inf).classify([[0.0]], model="model")
    assert server.calls[0].time_remaining_s == math.inf


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
def test_a_timeout_that_cannot_be_is_refused(client: Client, timeout_s: float) -> None:
    with pytest.raises(InvalidOptions, match="timeout_s"):
        client.classify([[0.0]], model="model", timeout_s=timeout_s)
    with pytest.raises(InvalidOptions, match="timeout_s"):
        Client(timeout_s=timeout_s)


async def test_a_cancelled_task_sends_no_more_requests() -> None:
    begun, over = threading.Event(), threading.Event()

    def wait(_: object) -> str:
        begun.set()
        over.wait(timeout=60)
        return "0"

    with FakeServer(answer=wait) as server:
        async with AsyncClient(server.address, max_request_sequences=1) as client:
            task = asyncio.create_task(client.classify([[0.0]] * 20, model="model"))
            await asyncio.to_thread(begun.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            over.set()
            assert await client.ready()
            assert len(server.calls) <= client.options.max_in_flight


async def test_many_tasks_share_one_client(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        answers = await asyncio.gather(
            *(client.classify([[float(index % 3)]], model="model") for index in range(30))
        )
    assert [one.labels[0] for one in answers] == ["low", "middle", "high"] * 10

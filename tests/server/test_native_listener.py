"""The native listener by itself: methods of the test's own, a real channel."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from google.protobuf import wrappers_pb2

from seqserve_server.errors import AddressUnavailable, DeadlineSpent
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.observability.spans import Spans
from seqserve_server.scheduling.work import Leave
from seqserve_server.transports import transport
from seqserve_server.transports.native_listener import Method, NativeListener, Tell

TIMEOUT_S = 60.0
PATH = "/test.Service/Method"

Text = wrappers_pb2.StringValue
Begin = Callable[[Text, int, float, Tell], Leave]


def stay() -> None: ...


def echo(request: Text, _size: int, _deadline: float, tell: Tell) -> Leave:
    tell(request)
    return stay


@asynccontextmanager
async def listening(
    begin: Begin,
    *,
    max_message_bytes: int = 1_000,
    parse: Callable[[bytes], Text] | None = None,
    counts: Calls | None = None,
    spans: Spans | None = None,
) -> AsyncIterator[Callable[[bytes], grpc.aio.UnaryUnaryCall[bytes, Text]]]:
    """Calls a method that is begun so, with a request of these bytes."""
    methods = [Method(PATH, parse or Text.FromString, begin)]
    listener = transport.native(
        methods,
        transport.grpcio(max_message_bytes),
        max_message_bytes,
        counts=counts,
        spans=spans,
    )
    port = transport.bind(listener, "127.0.0.1:0")
    await listener.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(PATH, None, Text.FromString)
            yield lambda request: call(request, timeout=TIMEOUT_S)
    finally:
        await listener.stop(None)


def text(value: str) -> bytes:
    return Text(value=value).SerializeToString()


async def code(call: grpc.aio.UnaryUnaryCall[bytes, Text]) -> grpc.StatusCode:
    return await call.code()


async def test_a_call_may_be_over_before_it_has_begun() -> None:
    async with listening(echo) as call:
        answers = await asyncio.gather(*(call(text(str(number))) for number in range(300)))

    assert [answer.value for answer in answers] == [str(number) for number in range(300)]


async def test_a_call_may_be_answered_by_any_thread_while_it_begins() -> None:
    def begin(request: Text, _size: int, _deadline: float, tell: Tell) -> Leave:
        threading.Thread(target=tell, args=(request,)).start()
        return stay

    async with listening(begin) as call:
        answers = await asyncio.gather(*(call(text(str(number))) for number in range(300)))

    assert [answer.value for answer in answers] == [str(number) for number in range(300)]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a secret path"), KeyError(1)])
@pytest.mark.parametrize("where", ["parse", "begin", "tell"])
async def test_whatever_fails_in_a_call_fails_that_call_alone(where: str, error: Exception) -> None:
    def parse(data: bytes) -> Text:
        request = Text.FromString(data)
        if where == "parse" and request.value == "bad":
            raise error
        return request

    def begin(request: Text, size: int, deadline: float, tell: Tell) -> Leave:
        if request.value != "bad":
            return echo(request, size, deadline, tell)
        if where == "begin":
            raise error
        tell(error)
        return stay

    async with listening(begin, parse=parse) as call:
        failed = call(text("bad"))
        assert await code(failed) is grpc.StatusCode.INTERNAL
        assert "secret" not in (await failed.details() or "")
        assert (await call(text("good"))).value == "good"


async def test_what_cannot_be_counted_or_traced_is_answered_all_the_same() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    counts, spans = Calls(lambda _: True), SimpleNamespace(call=fail)
    counts.ended = fail  # type: ignore[assignment, method-assign]
    async with listening(echo, counts=counts, spans=cast(Spans, spans)) as call:
        answers = await asyncio.gather(*(call(text(str(number))) for number in range(3)))

    assert [answer.value for answer in answers] == ["0", "1", "2"]


async def test_an_answer_that_cannot_be_written_fails_its_call_alone() -> None:
    class Torn:
        def SerializeToString(self) -> bytes:  # noqa: N802
            raise ValueError

    def begin(request: Text, size: int, deadline: float, tell: Tell) -> Leave:
        if request.value == "good":
            return echo(request, size, deadline, tell)
        tell(Torn())  # type: ignore[arg-type]
        return stay

    async with listening(begin) as call:
        assert await code(call(text("bad"))) is grpc.StatusCode.INTERNAL
        assert (await call(text("good"))).value == "good"


async def test_what_is_no_message_is_refused() -> None:
    async with listening(echo) as call:
        refused = call(b"\xff\xff\xff")
        assert await code(refused) is grpc.StatusCode.INVALID_ARGUMENT
        assert "not the message it should be" in (await refused.details() or "")


async def test_a_message_of_twice_the_limit_is_refused_before_it_is_parsed() -> None:
    parsed: list[int] = []

    def parse(data: bytes) -> Text:
        parsed.append(len(data))
        return Text.FromString(data)

    async with listening(echo, parse=parse) as call:
        assert await code(call(bytes(2_001))) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await call(text("x" * 1_500))

    assert len(parsed) == 1


async def test_a_caller_who_goes_leaves_and_nothing_of_its_call_is_kept() -> None:
    class Numbers:
        """What a call holds."""

    begun, left = threading.Semaphore(0), threading.Semaphore(0)
    kept: list[weakref.ref[Numbers]] = []

    def begin(request: Text, size: int, deadline: float, tell: Tell) -> Leave:
        if request.value == "next":
            return echo(request, size, deadline, tell)
        numbers = Numbers()
        kept.append(weakref.ref(numbers))
        begun.release()

        def leave() -> None:
            assert numbers
            left.release()

        return leave

    async with listening(begin) as call:
        calls = [call(text("stays away")) for _ in range(20)]
        for _ in calls:
            assert await asyncio.to_thread(begun.acquire, timeout=TIMEOUT_S)
        for each in calls:
            each.cancel()
        for _ in calls:
            assert await asyncio.to_thread(left.acquire, timeout=TIMEOUT_S)
        await call(text("next"))  # what came before it has been dealt with

        assert [each() for each in kept] == [None] * 20


async def test_who_is_told_too_late_hears_nothing() -> None:
    tells: list[Tell] = []
    begun, left = threading.Semaphore(0), threading.Semaphore(0)

    def begin(request: Text, size: int, deadline: float, tell: Tell) -> Leave:
        if request.value == "next":
            return echo(request, size, deadline, tell)
        tells.append(tell)
        begun.release()
        return left.release

    async with listening(begin) as call:
        gone = call(text("goes"))
        assert await asyncio.to_thread(begun.acquire, timeout=TIMEOUT_S)
        gone.cancel()
        assert await asyncio.to_thread(left.acquire, timeout=TIMEOUT_S)
        for outcome in (Text(value="late"), DeadlineSpent()):
            tells[0](outcome)
        assert (await call(text("next"))).value == "next"


async def test_where_there_is_no_way_to_the_other_methods_the_server_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)  # a socket's path has 108 bytes at most
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    listener = transport.native([], transport.grpcio(1_000), 1_000)
    assert isinstance(listener, NativeListener)
    transport.bind(listener, "127.0.0.1:0")

    with pytest.raises(AddressUnavailable, match="TMPDIR"):
        await listener.start()

    assert not os.listdir(deep)


async def test_the_socket_behind_it_is_nobody_else_s_and_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with listening(echo) as call:
        await call(text("x"))
        [folder] = os.listdir(tmp_path)
        assert os.stat(tmp_path / folder).st_mode & 0o77 == 0

    assert not os.listdir(tmp_path)

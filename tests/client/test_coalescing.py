"""Calls of a single sequence share requests, and each caller notices nothing but the speed."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve.v1.classifier_pb2_grpc import (
    SequenceClassifierServicer,
    add_SequenceClassifierServicer_to_server,
)
from seqserve_client import (
    AsyncClient,
    Cancelled,
    Classification,
    Client,
    DeadlineExceeded,
    InvalidOptions,
    InvalidSequences,
    ModelNotFound,
    Overloaded,
    SeqserveError,
    ServiceClass,
    Unavailable,
    gathering,
)
from seqserve_client.testing import FakeServer

TIMEOUT_S = 60
FEW = 4
"""Calls under way with which the next one waits."""
NEVER_S = 1e6
"""A delay that is never over, so that it is known who leaves with whom."""


class Caller(Protocol):
    """Calls a server at the same time as others do."""

    def __call__(self, sequence: object, **named: object) -> Future[Classification]: ...

    def close(self) -> None: ...


Crowd = Callable[..., Caller]


class _Threads:
    """Calls a `Client`, each call in a thread."""

    def __init__(self, stack: ExitStack, address: str, options: dict[str, Any]) -> None:
        self._pool = stack.enter_context(ThreadPoolExecutor(64))
        self._client = stack.enter_context(Client(address, **options))

    def __call__(self, sequence: Any, **given: Any) -> Future[Classification]:  # noqa: ANN401
        named: dict[str, Any] = {"model": "model", "timeout_s": math.inf} | given
        return self._pool.submit(self._client.classify, [sequence], **named)

    def close(self) -> None:
        self._client.close()


class _Tasks:
    """Calls an `AsyncClient`, each call in a task of one event loop."""

    def __init__(self, stack: ExitStack, address: str, options: dict[str, Any]) -> None:
        self._run = stack.enter_context(_running_loop())
        self._client = AsyncClient(address, **options)
        stack.callback(self.close)

    def __call__(self, sequence: Any, **given: Any) -> Future[Classification]:  # noqa: ANN401
        named: dict[str, Any] = {"model": "model", "timeout_s": math.inf} | given
        return self._run(self._client.classify([sequence], **named))

    def close(self) -> None:
        self._run(self._client.close()).result(TIMEOUT_S)


@pytest.fixture(params=[_Threads, _Tasks], ids=["threads", "tasks"])
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    """Makes clients whose calls begin at once, in threads or in tasks."""
    with ExitStack() as stack:
        yield lambda address, **options: request.param(stack, address, options)


@pytest.fixture
def tasks() -> Iterator[Crowd]:
    """The same for tasks alone."""
    with ExitStack() as stack:
        yield lambda address, **options: _Tasks(stack, address, options)


class _running_loop:  # noqa: N801
    """An event loop in a thread of its own, which is given coroutines."""

    def __enter__(self) -> Callable[[Coroutine[Any, Any, Any]], Future[Any]]:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Held:
    """A server that keeps calls waiting: those of the value -1 until `go`, -2 until `end`."""

    def __init__(self) -> None:
        self._began = threading.Semaphore(0)
        self.go, self.end = threading.Event(), threading.Event()
        self.in_vain = False
        """Whether it stopped waiting for one of them."""
        self.server = FakeServer(["low", "middle", "high"], answer=self._answer)

    def _answer(self, sequence: np.ndarray[Any, np.dtype[np.float32]]) -> list[float]:
        value = float(sequence[0, 0])
        if value < 0:
            self._began.release()
            self.in_vain |= not (self.go if value == -1 else self.end).wait(TIMEOUT_S)
        return [value, len(sequence), 0.1]

    def began(self, calls: int) -> None:
        """Returns when so many more calls have reached the server and are kept waiting."""
        for _ in range(calls):
            assert self._began.acquire(timeout=TIMEOUT_S)

    def fill(self, caller: Caller, **named: object) -> list[Future[Classification]]:
        """So many calls under way, each by itself, that the next one waits."""
        waiting = [caller([-1.0], **named) for _ in range(FEW)]
        self.began(FEW)
        return waiting

    def joined(self) -> list[list[float]]:
        """The first number of each sequence, for each request but those of `fill`, in order."""
        requests = [call.request.sequences for call in self.server.calls]
        firsts = []
        for request in requests:
            starts = np.cumsum([0, *request.lengths[:-1]])
            firsts.append(np.frombuffer(request.values, "<f4")[starts].tolist())
        return [sorted(values) for values in firsts if values != [-1]]


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    with held.server:
        try:
            yield held
        finally:
            assert not held.in_vain
            held.go.set()
            held.end.set()


def alike(one: Classification, other: Classification) -> bool:
    """Whether a caller could not tell one from the other."""
    return (
        one.logits.tobytes() == other.logits.tobytes()
        and one.probabilities.tobytes() == other.probabilities.tobytes()
        and all(
            (mine.shape, mine.dtype, mine.flags.writeable)
            == (its.shape, its.dtype, its.flags.writeable)
            for mine, its in (
                (one.logits, other.logits),
                (one.probabilities, other.probabilities),
            )
        )
        and all(
            getattr(one, name) == getattr(other, name)
            for name in ("labels", "classes", "top_labels", "model_version", "model_digest")
        )
    )


@pytest.mark.parametrize("top_k", [0, 2])
def test_calls_leave_together_and_each_is_answered_as_if_alone(
    crowd: Crowd, held: Held, top_k: int
) -> None:
    caller = crowd(held.server.address, coalesce_sequences=5, coalesce_delay_s=NEVER_S)
    held.fill(caller, top_k=top_k)
    sequences = [[float(index)] * (index + 1) for index in range(5)]
    answers = [caller(sequence, top_k=top_k) for sequence in sequences]
    together = [answer.result(TIMEOUT_S) for answer in answers]
    assert held.joined() == [[0, 1, 2, 3, 4]]
    with Client(held.server.address) as client:
        for sequence, answer in zip(sequences, together, strict=True):
            assert alike(answer, client.classify([sequence], model="model", top_k=top_k))


def test_those_that_wait_leave_when_others_return(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_delay_s=NEVER_S)
    filling = held.fill(caller)
    waiting = [caller([float(index)]) for index in range(3)]
    held.go.set()
    assert [one.result(TIMEOUT_S).logits[0, 0] for one in (*filling, *waiting)] == [
        *([-1] * FEW),
        *(0, 1, 2),
    ]


def test_those_that_wait_leave_when_the_delay_is_over(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_delay_s=0.01)
    held.fill(caller)
    assert caller([7.0]).result(TIMEOUT_S).logits[0, 0] == 7


@pytest.mark.parametrize("bad", range(4))
def test_a_bad_neighbour_fails_alone(crowd: Crowd, held: Held, bad: int) -> None:
    caller = crowd(held.server.address, coalesce_sequences=4, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    values = [float(index) if index != bad else math.nan for index in range(4)]
    answers = [caller([0.0, value]) for value in values]
    for index, answer in enumerate(answers):
        if index != bad:
            assert answer.result(TIMEOUT_S).logits[0, 1] == 2
    with pytest.raises(InvalidSequences) as caught:
        answers[bad].result(TIMEOUT_S)
    assert [len(one) for one in held.joined()] == [4]
    with Client(held.server.address) as client, pytest.raises(InvalidSequences) as alone:
        client.classify([[0.0, math.nan]], model="model")
    assert str(caught.value) == str(alone.value)
    assert caught.value.violations == alone.value.violations


def test_many_bad_neighbours_do_not_delay_the_others(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_sequences=6, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    bad = [caller([math.nan]) for _ in range(4)]
    good = [caller([float(index)]) for index in range(2)]
    assert [one.result(TIMEOUT_S).logits[0, 0] for one in good] == [0, 1]
    assert all(isinstance(one.exception(TIMEOUT_S), InvalidSequences) for one in bad)
    assert [len(one) for one in held.joined()] == [6]


def test_a_neighbour_that_breaks_the_server_breaks_itself_alone(crowd: Crowd) -> None:
    held = Held()
    held.server = FakeServer(
        answer=lambda sequence: [0.0] if sequence[0, 0] == 2 else held._answer(sequence)[:2]
    )
    with held.server:
        caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
        held.fill(caller)
        good, worse, fine = (caller([value]) for value in (1.0, 2.0, 3.0))
        assert good.result(TIMEOUT_S).logits[0, 0] == 1
        assert fine.result(TIMEOUT_S).logits[0, 0] == 3
        with pytest.raises(SeqserveError, match="rule"):
            worse.result(TIMEOUT_S)
        held.go.set()


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_expired_neighbour_leaves_in_its_time_and_nobody_else_does(
    crowd: Crowd, held: Held, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_HURRY", 0)  # else it would not wait for company
    caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    timeouts = [1.0, math.inf, 1000] if place == "first" else [1000, math.inf, 1.0]
    answers = [caller([-2.0], timeout_s=timeout_s) for timeout_s in timeouts]
    short = answers.pop(0 if place == "first" else 2)
    with pytest.raises(DeadlineExceeded, match="did not answer in the time given"):
        short.result(TIMEOUT_S)
    assert not any(answer.done() for answer in answers)
    held.end.set()
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in answers] == [-2, -2]
    assert held.joined() == [[-2, -2, -2]]
    assert held.server.calls[-1].time_remaining_s == math.inf


def test_neighbours_expire_one_after_the_other(
    crowd: Crowd, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_HURRY", 0)
    caller = crowd(held.server.address, coalesce_sequences=5, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    # The shortest is neither the first nor the last, and the longest comes before others.
    stays, third, first, second, other = (
        caller([-2.0], timeout_s=timeout_s) for timeout_s in (math.inf, 1.4, 1.0, 1.2, 1000)
    )
    for answer in (first, second, third):
        with pytest.raises(DeadlineExceeded, match="did not answer in the time given"):
            answer.result(TIMEOUT_S)
    assert not stays.done()
    assert not other.done()
    held.end.set()
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in (stays, other)] == [-2, -2]
    assert held.joined() == [[-2] * 5]


def test_a_neighbour_that_expires_as_it_waits_does_not_leave(
    crowd: Crowd, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_HURRY", 0)
    caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    with pytest.raises(DeadlineExceeded):
        caller([5.0], timeout_s=0.2).result(TIMEOUT_S)
    answers = [caller([float(index)]) for index in range(3)]
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in answers] == [0, 1, 2]
    assert held.joined() == [[0, 1, 2]]


def test_the_deadline_of_a_joined_request_is_the_latest(
    crowd: Crowd, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_HURRY", 0)
    caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    for answer in [caller([1.0], timeout_s=timeout_s) for timeout_s in (100, 5000, 200)]:
        answer.result(TIMEOUT_S)
    assert held.joined() == [[1, 1, 1]]
    assert held.server.calls[-1].time_remaining_s == pytest.approx(5000, rel=0.1)


def test_a_call_with_little_time_waits_for_nobody(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    assert caller([1.0], timeout_s=1000).result(TIMEOUT_S).logits[0, 0] == 1


def test_a_failure_reaches_everyone_as_an_error_of_its_own(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_sequences=4, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3))
    held.server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details=[retry])
    errors = [one.exception(TIMEOUT_S) for one in [caller([1.0]) for _ in range(4)]]
    assert len({id(error) for error in errors}) == 4
    for error in errors:
        assert isinstance(error, Overloaded)
        assert (str(error), error.retry_after_s) == ("full", 3)
        assert isinstance(error.__cause__, grpc.RpcError)
    assert len({id(error.__traceback__) for error in errors if error}) == 4
    assert [len(one) for one in held.joined()] == [4]


@pytest.mark.parametrize(
    ("code", "times", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, 5, Unavailable),  # gRPC tries it five times
        (grpc.StatusCode.NOT_FOUND, 1, ModelNotFound),
    ],
    ids=["unavailable", "not found"],
)
def test_other_failures_do_too_and_the_next_calls_are_answered(
    crowd: Crowd, held: Held, code: grpc.StatusCode, times: int, kind: type[SeqserveError]
) -> None:
    caller = crowd(held.server.address, coalesce_sequences=2, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    held.server.fail(code, times=times)
    for answer in [caller([1.0]), caller([2.0])]:
        with pytest.raises(kind):
            answer.result(TIMEOUT_S)
    later = [caller([1.0]), caller([2.0])]
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in later] == [1, 2]


def test_a_refusal_of_the_company_is_not_the_callers(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    held.server.fail(grpc.StatusCode.INVALID_ARGUMENT, "3 sequences; at most 2 are accepted")
    answers = [caller([float(index)]) for index in range(3)]
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in answers] == [0, 1, 2]
    assert sorted(len(one) for one in held.joined()) == [1, 1, 1, 3]


@pytest.mark.parametrize(
    "other",
    [
        {"top_k": 1},
        {"version": 1},
        {"service_class": "bulk"},
        {"sequence": [[1.0, 2.0]]},
    ],
    ids=lambda other: next(iter(other)),
)
def test_calls_of_another_kind_do_not_leave_together(
    crowd: Crowd, held: Held, other: dict[str, Any]
) -> None:
    caller = crowd(held.server.address, coalesce_sequences=2, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    first = caller([1.0])
    # Nothing of its kind is under way.
    named = {name: value for name, value in other.items() if name != "sequence"}
    assert caller(other.get("sequence", [1.0]), **named).result(TIMEOUT_S).logits[0, 0] == 1
    assert not first.done()
    second = caller([2.0])
    assert first.result(TIMEOUT_S).logits[0, 0] == 1
    assert second.result(TIMEOUT_S).logits[0, 0] == 2
    assert [len(one) for one in held.joined()] == [1, 2]


def test_joining_can_be_switched_off(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_sequences=1, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    assert [caller([float(index)]).result(TIMEOUT_S).logits[0, 0] for index in range(3)] == [
        *(0, 1, 2)
    ]
    assert held.joined() == [[0], [1], [2]]


async def test_a_caller_may_change_its_array_once_its_call_has_begun(held: Held) -> None:
    async with AsyncClient(
        held.server.address,
        coalesce_sequences=2,
        coalesce_delay_s=NEVER_S,
        timeout_s=math.inf,
    ) as client:

        def call(*array: object) -> asyncio.Task[Classification]:
            return asyncio.create_task(client.classify(array, model="model"))  # type: ignore[arg-type]

        filling = [call([-1.0]) for _ in range(FEW)]
        await asyncio.to_thread(held.began, FEW)
        array = np.array([[1.0]], np.float32)
        first = call(array)
        await asyncio.sleep(0)
        array[:] = 9
        answers = await asyncio.gather(first, call([2.0]))
        assert [answer.logits[0, 0] for answer in answers] == [1, 2]
        held.go.set()
        await asyncio.gather(*filling)


def test_closing_cancels_calls_that_wait_and_calls_under_way(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    filling = held.fill(caller)
    joined = [caller([-2.0]) for _ in range(3)]
    held.began(1)
    waiting = [caller([1.0]) for _ in range(2)]
    caller.close()
    for answer in (*filling, *joined, *waiting):
        with pytest.raises(Cancelled, match=r"closed|Channel"):
            answer.result(TIMEOUT_S)


def test_a_cancelled_neighbour_leaves_alone(tasks: Crowd, held: Held) -> None:
    caller = tasks(held.server.address, coalesce_sequences=3, coalesce_delay_s=NEVER_S)
    held.fill(caller)
    answers = [caller([-2.0]) for _ in range(3)]
    held.began(1)
    answers.pop(1).cancel()
    assert not any(answer.done() for answer in answers)
    held.end.set()
    assert [answer.result(TIMEOUT_S).logits[0, 0] for answer in answers] == [-2, -2]
    assert held.joined() == [[-2, -2, -2]]


async def test_a_neighbour_that_is_cancelled_as_it_waits_does_not_leave(held: Held) -> None:
    async with AsyncClient(
        held.server.address,
        coalesce_sequences=3,
        coalesce_delay_s=NEVER_S,
        timeout_s=math.inf,
    ) as client:

        def call(value: float) -> asyncio.Task[Classification]:
            return asyncio.create_task(client.classify([[value]], model="model"))

        filling = [call(-1.0) for _ in range(FEW)]
        await asyncio.to_thread(held.began, FEW)
        cancelled = call(5.0)
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        answers = await asyncio.gather(*(call(float(index)) for index in range(3)))
        assert [answer.logits[0, 0] for answer in answers] == [0, 1, 2]
        assert held.joined() == [[0, 1, 2]]
        held.go.set()
        await asyncio.gather(*filling)


async def test_a_request_whose_callers_go_before_it_is_sent_leaves_no_trace(held: Held) -> None:
    async with AsyncClient(
        held.server.address,
        coalesce_sequences=FEW + 1,
        coalesce_delay_s=NEVER_S,
        timeout_s=math.inf,
    ) as client:

        def call(value: float) -> asyncio.Task[Classification]:
            return asyncio.create_task(client.classify([[value]], model="model"))

        filling = [call(-1.0) for _ in range(FEW)]
        await asyncio.to_thread(held.began, FEW)
        gone = [call(5.0) for _ in range(FEW + 1)]
        # Their tasks begin, in this turn of the loop; that of the request, in the next.
        asyncio.get_running_loop().call_soon(lambda: [one.cancel() for one in gone])
        assert all(
            isinstance(one, asyncio.CancelledError)
            for one in await asyncio.gather(*gone, return_exceptions=True)
        )
        held.go.set()
        await asyncio.gather(*filling)
        # Had it been counted as under way for ever, these would wait.
        assert (await call(1.0)).logits[0, 0] == 1
        assert held.joined() == [[1]]


def test_a_request_is_cancelled_when_all_its_callers_have_gone(tasks: Crowd) -> None:
    begun, over = threading.Semaphore(0), threading.Event()
    ended: list[int] = []
    told = threading.Semaphore(0)

    class Servicer(SequenceClassifierServicer):
        def Classify(self, request: ClassifyRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
            def end() -> None:
                ended.append(len(request.sequences.lengths))
                told.release()

            context.add_callback(end)
            begun.release()
            over.wait(timeout=TIMEOUT_S)
            return ClassifyResponse()

        def Advance(self, *_: object) -> Any:  # noqa: ANN401, N802
            raise NotImplementedError

    server = grpc.server(ThreadPoolExecutor(FEW + 1))
    add_SequenceClassifierServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        caller = tasks(f"127.0.0.1:{port}", coalesce_sequences=2, coalesce_delay_s=NEVER_S)
        for _ in range(FEW):
            caller([0.0])
            assert begun.acquire(timeout=TIMEOUT_S)
        pair = [caller([1.0]), caller([2.0])]
        assert begun.acquire(timeout=TIMEOUT_S)
        for answer in pair:
            answer.cancel()
        assert told.acquire(timeout=TIMEOUT_S)
        assert ended == [2]
    finally:
        over.set()
        server.stop(None).wait()


def test_calls_of_the_main_thread_leave_at_once(held: Held) -> None:
    assert threading.current_thread() is threading.main_thread()
    with (
        ThreadPoolExecutor(FEW) as pool,
        Client(held.server.address, coalesce_delay_s=NEVER_S, timeout_s=math.inf) as client,
    ):
        for _ in range(FEW):
            pool.submit(client.classify, [[-1.0]], model="model")
        held.began(FEW)
        assert client.classify([[3.0]], model="model").logits[0, 0] == 3
        held.go.set()


def test_a_storm_of_callers_with_all_kinds_of_luck_leaves_nobody_waiting(crowd: Crowd) -> None:
    random = np.random.default_rng(3)
    server = FakeServer(["low", "middle", "high"], answer=lambda one: [float(one[0, 0]), 0, 0])
    with server:
        caller = crowd(server.address, coalesce_sequences=7)
        calls = []
        for index in range(600):
            if index % 150 == 0:
                server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, times=3)
            value = math.nan if random.random() < 0.05 else float(index)
            timeout_s = 0.02 if random.random() < 0.05 else math.inf
            calls.append((value, timeout_s, caller([value], timeout_s=timeout_s)))
        for value, timeout_s, answer in calls:
            error = answer.exception(TIMEOUT_S)
            if error is None:
                assert answer.result().logits[0, 0] == value
            elif isinstance(error, DeadlineExceeded):
                assert timeout_s < math.inf
            elif isinstance(error, InvalidSequences):
                assert math.isnan(value)
            else:
                assert isinstance(error, Overloaded)
        assert sum(len(call.request.sequences.lengths) > 1 for call in server.calls) > 10


@pytest.mark.parametrize(
    "option",
    [
        {"coalesce_sequences": 0},
        {"coalesce_delay_s": -0.001},
        {"coalesce_delay_s": math.inf},
        {"coalesce_delay_s": math.nan},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(option: dict[str, Any]) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidOptions, match=next(iter(option))):
            kind(**option)


def test_how_urgent_a_call_is_reaches_the_server(crowd: Crowd, held: Held) -> None:
    caller = crowd(held.server.address)
    for given in ({}, {"service_class": ServiceClass.BULK}, {"service_class": "interactive"}):
        caller([1.0], **given).result(TIMEOUT_S)
    assert [call.service_class for call in held.server.calls] == [
        *("interactive", "bulk", "interactive")
    ]
    with pytest.raises(InvalidOptions, match="'urgent'; interactive or bulk is needed"):
        caller([1.0], service_class="urgent").result(TIMEOUT_S)

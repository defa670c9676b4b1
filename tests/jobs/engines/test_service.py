"""A job's sequences answered by a service: full, away, killed, replaced, and by whom else it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from numpy.typing import NDArray

from benchmarks.server_process import Server
from seqserve.graph import GraphRunner
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_client import Client, InvalidOptions, ServiceClass
from seqserve_client.testing import FakeServer
from seqserve_jobs.engines.engine import Scores
from seqserve_jobs.engines.service import ServiceEngine
from seqserve_jobs.errors import EngineError, GivenUp
from tests.integration.conftest import in_process

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, PublishedOptions

MODELS: dict[str, PublishedOptions] = {
    "lstm": {"cell": "lstm", "num_layers": 2, "longest_steps": 60},
    "rnn": {"cell": "rnn-tanh", "longest_steps": 60},
    "both-ways": {"cell": "gru", "bidirectional": True, "head": "mean", "longest_steps": 60},
}
PATIENT_S = 300.0
"""A test that waits so long has failed; none is meant to come near."""
KILLS = 2

Serve = Callable[..., FakeServer]
Connect = Callable[..., ServiceEngine]
Code = grpc.StatusCode


def batch(count: int, seed: int = 0) -> RaggedBatch:
    """Sequences of 1 to 60 steps, some of each of a fake server's classes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 61, count)
    values = rng.normal(0, 0.1, (int(lengths.sum()), 3))
    values += np.repeat(rng.integers(0, 2, count), lengths)[:, None]
    return RaggedBatch(values.astype(np.float32), lengths)


def result(future: Future[Scores]) -> Scores:
    return future.result(PATIENT_S)


def alone(graph: GraphRunner, sequences: RaggedBatch) -> Scores:
    """The answers of a batch of one, each."""
    outputs = [graph(each[None], np.array([len(each)], np.int32)) for each in sequences]
    return Scores(
        np.concatenate([each.logits for each in outputs]),
        np.concatenate([each.probabilities for each in outputs]),
    )


def same_bits(one: Scores, other: Scores) -> bool:
    return (
        one.logits.tobytes() == other.logits.tobytes()
        and one.probabilities.tobytes() == other.probabilities.tobytes()
    )


def nearest(sequences: RaggedBatch) -> NDArray[np.int64]:
    """The classes that a fake server without a rule gives them, of the labels 0 and 1."""
    means = np.array([each.mean() for each in sequences])
    return (abs(means - 1) < abs(means)).astype(np.int64)


def requests(server: FakeServer) -> list[ClassifyRequest]:
    """Those for answers that it was sent."""
    return [call.request for call in server.calls if call.method == "Classify"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts fake servers of two classes and three features."""
    with ExitStack() as stack:

        def started(kind: type[FakeServer] = FakeServer, **options: Any) -> FakeServer:  # noqa: ANN401
            return stack.enter_context(kind(**{"features": 3, **options}))

        yield started


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes engines that are closed in the end: before the servers are."""
    with ExitStack() as stack:

        def connected(
            *servers: FakeServer,
            limits: dict[str, Any] | None = None,
            **options: Any,  # noqa: ANN401
        ) -> ServiceEngine:
            address = ",".join(server.address for server in servers)
            client = stack.enter_context(Client(address, **(limits or {})))
            return stack.enter_context(ServiceEngine(client, "model", **options))

        yield connected


class Log(logging.Handler):
    """What the engine says, for tests that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._said = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line."""
        with self._said:
            self.lines.append(record.getMessage())
            self._said.notify_all()

    def wait_for(self, words: str) -> None:
        """Until a line has them."""
        with self._said:
            assert self._said.wait_for(
                lambda: any(words in line for line in self.lines), PATIENT_S
            ), f"nobody says {words!r}"


@pytest.fixture
def log() -> Iterator[Log]:
    handler, logger = Log(), logging.getLogger("seqserve_jobs.engines.service")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


# What is sent


def test_requests_hold_like_lengths_and_their_answers_come_back_in_order(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server, limits={"max_request_sequences": 7, "max_request_steps": 150})
    shard = batch(100)
    scores = result(engine.submit(shard))
    assert scores.logits.argmax(axis=1).tolist() == nearest(shard).tolist()
    sent = [list(request.sequences.lengths) for request in requests(server)]
    assert sorted(chain.from_iterable(sent)) == sorted(shard.lengths.tolist())
    assert all(len(lengths) <= 7 and sum(lengths) <= 150 for lengths in sent)
    borders = sorted((max(lengths), min(lengths)) for lengths in sent)
    for (_, shortest), (longest, _) in zip(borders[1:], borders, strict=False):
        assert longest <= shortest, "a request holds lengths between those of another"


def test_requests_are_of_the_bulk_class_and_of_one_version(serve: Serve, connect: Connect) -> None:
    server = serve(version=3)
    engine = connect(server, limits={"max_request_sequences": 5})
    assert (engine.model.version, engine.model.digest) == (3, f"{3:064x}")
    result(engine.submit(batch(20)))
    calls = [call for call in server.calls if call.method == "Classify"]
    assert {call.service_class for call in calls} == {ServiceClass.BULK}
    assert {call.request.model_version for call in calls} == {3}


def test_a_version_that_is_published_in_the_middle_changes_nothing(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server)
    result(engine.submit(batch(5)))
    server.publish(2)
    result(engine.submit(batch(5)))
    assert [request.model_version for request in requests(server)] == [1, 1]


def test_every_replica_has_its_share(serve: Serve, connect: Connect) -> None:
    servers = serve(), serve()
    with ExitStack() as stack:
        # Both are connected to before the first request leaves.
        client = stack.enter_context(Client(",".join(server.address for server in servers)))
        while not all(requests(server) for server in servers):
            client.classify([[[0.0, 0.0, 0.0]]], model="model")
        before = [len(requests(server)) for server in servers]
        engine = stack.enter_context(ServiceEngine(client, "model"))
        for seed in range(40):
            result(engine.submit(batch(2, seed)))
        after = [len(requests(server)) for server in servers]
    shares = [late - early for late, early in zip(after, before, strict=True)]
    assert sum(shares) == 40
    assert min(shares) >= 10


def test_as_many_requests_as_the_window_holds_are_under_way_and_no_more(
    serve: Serve, connect: Connect
) -> None:
    window, lock, under_way, most = 3, threading.Lock(), 0, 0
    together = threading.Barrier(window)

    def rule(_: NDArray[np.float32]) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(PATIENT_S)
        with lock:
            under_way -= 1
        together.wait(PATIENT_S)
        return "0"

    engine = connect(
        serve(answer=rule), limits={"max_request_sequences": 1, "timeout_s": PATIENT_S}, window=3
    )
    result(engine.submit(batch(5 * window)))
    assert most == window


# Who answers


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    return repository(**MODELS)


@pytest.fixture(scope="module")
def replicas(models: Path) -> Iterator[list[Server]]:
    """One on each transport."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Server(models, transport, core=None))
            for transport in ("native", "grpcio")
        ]


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_two_replicas_on_both_transports_are_those_of_a_batch_of_one(
    name: str, models: Path, replicas: Sequence[Server]
) -> None:
    address = ",".join(replica.address for replica in replicas)
    shards = [batch(1), batch(150, seed=1), batch(40, seed=2)]
    with (
        Client(address, max_request_sequences=7) as client,
        ServiceEngine(client, name) as engine,
    ):
        futures = [engine.submit(shard) for shard in shards]
        graph = in_process(models, name)
        for future, shard in zip(futures, shards, strict=True):
            assert same_bits(result(future), alone(graph, shard))


def test_the_model_is_what_the_manifest_says(models: Path, replicas: Sequence[Server]) -> None:
    with Client(replicas[0].address) as client, ServiceEngine(client, "lstm") as engine:
        model = engine.model
    assert (model.name, model.version, model.features) == ("lstm", 1, 3)
    assert model.labels == ("class 0", "class 1", "class 2", "class 3")
    assert model.feature_names == ("feature 0", "feature 1", "feature 2")
    assert model.max_steps >= 60
    assert not model.admits_non_finite


@pytest.mark.slow
def test_bits_are_the_same_while_replicas_are_killed_and_others_call_beside(models: Path) -> None:
    graph, rng = in_process(models, "lstm"), np.random.default_rng(3)
    shards = [batch(300, seed) for seed in range(8)]
    expected = [alone(graph, shard) for shard in shards]
    over, wrong = threading.Event(), []
    with ExitStack() as stack:
        running = [
            stack.enter_context(Server(models, transport, core=None))
            for transport in ("native", "grpcio")
        ]
        address = ",".join(replica.address for replica in running)

        def call() -> None:
            with Client(address, timeout_s=PATIENT_S) as beside:
                while not over.is_set():
                    index = int(rng.integers(300))
                    answer = beside.classify([shards[0][index]], model="lstm")
                    if not np.array_equal(answer.logits[0], expected[0].logits[index]):
                        wrong.append(index)

        caller = threading.Thread(target=call)
        client = stack.enter_context(Client(address, max_request_sequences=8))
        engine = stack.enter_context(ServiceEngine(client, "lstm"))
        caller.start()
        try:
            for kill in range(KILLS):
                futures = [engine.submit(shard) for shard in shards]
                result(futures[kill])  # others are under way
                victim = running[kill % 2]
                victim.kill()
                transport = ("native", "grpcio")[kill % 2]
                running[kill % 2] = stack.enter_context(
                    Server(models, transport, core=None, address=victim.address)
                )
                for future, scores in zip(futures, expected, strict=True):
                    assert same_bits(result(future), scores)
        finally:
            over.set()
            caller.join()
    assert not wrong


# A service that is full


def test_a_full_service_is_asked_again_for_as_long_as_it_takes(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server, limits={"max_request_sequences": 5}, patience_s=0)
    soon = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1_000_000))
    server.fail(
        Code.RESOURCE_EXHAUSTED, "the queue is full", times=60, method="Classify", details=[soon]
    )
    shard = batch(50)
    scores = result(engine.submit(shard))
    assert scores.logits.argmax(axis=1).tolist() == nearest(shard).tolist()
    assert len(requests(server)) == 60 + 10


def test_a_full_service_is_not_asked_before_the_time_it_names(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server)
    later = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=300_000_000))
    server.fail(Code.RESOURCE_EXHAUSTED, "the queue is full", method="Classify", details=[later])
    begin = time.monotonic()
    result(engine.submit(batch(5)))
    assert time.monotonic() - begin >= 0.3
    assert len(requests(server)) == 2


# A service that is away


def test_a_service_that_is_away_is_waited_for_and_told_of_once(
    serve: Serve, connect: Connect, log: Log
) -> None:
    server = serve()
    engine = connect(server, limits={"max_request_sequences": 5})
    result(engine.submit(batch(5)))
    server.stop()
    shard = batch(50)
    future = engine.submit(shard)
    log.wait_for("waiting for it")
    server.start()
    scores = result(future)
    assert scores.logits.argmax(axis=1).tolist() == nearest(shard).tolist()
    waiting, back = log.lines
    assert "is unavailable" in waiting
    assert "up to 300 s" in waiting
    assert back == f"{server.address} answers again"


def test_a_service_that_is_away_in_the_beginning_is_waited_for_too(
    serve: Serve, connect: Connect, log: Log
) -> None:
    server = serve()
    server.stop()
    with ThreadPoolExecutor(1) as pool:
        engine = pool.submit(connect, server)
        log.wait_for("waiting for it")
        server.start()
        assert len(result(engine.result(PATIENT_S).submit(batch(5))).logits) == 5
    waiting, back = log.lines
    assert "is unavailable" in waiting
    assert back == f"{server.address} answers"


def test_patience_ends_and_says_how_to_go_on(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server, patience_s=0)
    server.stop()
    with pytest.raises(EngineError, match=r"is unavailable.* the same command goes on"):
        result(engine.submit(batch(5)))


def test_a_job_that_is_to_stop_waits_for_nobody(serve: Serve, connect: Connect, log: Log) -> None:
    stop = threading.Event()
    server = serve()
    engine = connect(server, stop=stop)
    server.stop()
    answer = engine.submit(batch(5))
    log.wait_for("waiting for it")
    stop.set()
    with pytest.raises(GivenUp, match=r"is unavailable.*not waited for, as the job is to stop"):
        result(answer)


def test_a_request_that_no_answer_comes_to_in_its_time_is_sent_again(
    serve: Serve, connect: Connect
) -> None:
    stuck = threading.Event()

    def rule(_: NDArray[np.float32]) -> str:
        if len(requests(server)) == 1:
            stuck.wait(PATIENT_S)
        return "1"

    server = serve(answer=rule)
    engine = connect(server, limits={"timeout_s": 1.0}, window=1)
    scores = result(engine.submit(batch(5)))
    stuck.set()
    assert scores.logits.argmax(axis=1).tolist() == [1] * 5
    assert len(requests(server)) >= 2


def test_a_defect_of_the_server_is_no_accident_the_third_time(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server)
    server.fail(Code.INTERNAL, "unforeseen error", times=2, method="Classify")
    result(engine.submit(batch(5)))
    assert len(requests(server)) == 3
    named = error_details_pb2.RequestInfo(request_id="r-17")
    server.fail(Code.INTERNAL, "unforeseen error", times=3, method="Classify", details=[named])
    with pytest.raises(EngineError, match=r"unforeseen error.*r-17.*3 times.*goes on"):
        result(engine.submit(batch(5)))


# What no waiting mends


def test_a_version_that_is_gone_ends_the_job_and_says_which(serve: Serve, connect: Connect) -> None:
    server = serve()
    engine = connect(server)
    server.publish(2)
    with Client(server.address) as operator:
        operator.unload_model("model", 1)
        with pytest.raises(EngineError) as caught:
            result(engine.submit(batch(5)))
        operator.load_model("model", 1)
        result(engine.submit(batch(5)))
    assert "version 1 of model, which the job began with, is not served" in str(caught.value)
    assert "seqserve models load model:1" in str(caught.value)
    assert "--restart" in str(caught.value)


def test_another_artifact_under_the_same_number_ends_the_job(
    serve: Serve, connect: Connect
) -> None:
    published = "a" * 64

    class Replaced(FakeServer):
        def _digest(self, _: int) -> str:
            return published

    engine = connect(serve(Replaced))
    result(engine.submit(batch(5)))
    published = "b" * 64
    with pytest.raises(EngineError) as caught:
        result(engine.submit(batch(5)))
    assert "another artifact answers" in str(caught.value)
    assert f"its digest is {'b' * 64}, and the job began with {'a' * 64}" in str(caught.value)


def test_a_sequence_that_the_service_refuses_ends_the_job(serve: Serve, connect: Connect) -> None:
    engine = connect(serve(max_steps=59))
    shard = batch(100)
    assert shard.lengths.max() == 60
    with pytest.raises(EngineError, match="60 steps"):
        result(engine.submit(shard))


def test_requests_over_the_servers_own_limits_are_cut_in_two(
    serve: Serve, connect: Connect
) -> None:
    server = serve()
    engine = connect(server)
    whole = error_details_pb2.BadRequest.FieldViolation(
        field="sequences", description="20 sequences; at most 12 are accepted in a request"
    )
    server.fail(
        Code.INVALID_ARGUMENT,
        whole.description,
        method="Classify",
        details=[error_details_pb2.BadRequest(field_violations=[whole])],
    )
    shard = batch(20)
    scores = result(engine.submit(shard))
    assert scores.logits.argmax(axis=1).tolist() == nearest(shard).tolist()
    assert [len(request.sequences.lengths) for request in requests(server)] == [20, 10, 10]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.UNAUTHENTICATED, "a token is needed"),
        (Code.PERMISSION_DENIED, "reader may not describe model"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_whoever_is_not_let_in_is_told_at_once(
    code: Code, words: str, serve: Serve, connect: Connect
) -> None:
    server = serve()
    server.fail(code, words, method="DescribeModel")
    with pytest.raises(EngineError) as caught:
        connect(server)
    assert str(caught.value) == words
    engine = connect(server)
    server.fail(code, words, method="Classify")
    with pytest.raises(EngineError, match=words):
        result(engine.submit(batch(5)))
    assert len(requests(server)) == 1


def test_a_model_that_no_server_has_is_told_at_once(serve: Serve) -> None:
    server = serve(model="other")
    with (
        Client(server.address) as client,
        pytest.raises(EngineError, match=r"^model is not served; other is, in versions \[1\]$"),
    ):
        ServiceEngine(client, "model")


def test_without_patience_no_server_is_told_at_once(serve: Serve) -> None:
    server = serve()
    server.stop()
    with Client(server.address) as client, pytest.raises(EngineError) as caught:
        ServiceEngine(client, "model", patience_s=0)
    assert str(caught.value).startswith(f"{server.address} is unavailable: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"window": 0}, {"patience_s": -1.0}], ids=str)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], serve: Serve, connect: Connect
) -> None:
    with pytest.raises(InvalidOptions, match="at least 1 and 0 are needed"):
        connect(serve(), **options)


def test_closing_gives_up_what_is_under_way(serve: Serve, connect: Connect) -> None:
    entered, stuck = threading.Event(), threading.Event()

    def rule(_: NDArray[np.float32]) -> str:
        entered.set()
        stuck.wait(PATIENT_S)
        return "0"

    engine = connect(serve(answer=rule))
    futures = [engine.submit(batch(50, seed)) for seed in range(3)]
    assert entered.wait(PATIENT_S)
    engine.close()
    stuck.set()
    for future in (*futures, engine.submit(batch(5))):
        with pytest.raises(EngineError, match="closed"):
            result(future)

"""Requests that the caller must change: what each is told."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from benchmarks.http2 import Connection, header_block
from benchmarks.server_process import Server
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.sequences_pb2 import RaggedBatch

if TYPE_CHECKING:
    from seqserve_server.options import Transport
    from tests.server.conftest import Running, RunServer

TIMEOUT_S = 60.0


def _batch(*lengths: int, values: bytes | None = None) -> RaggedBatch:
    """Zeros of 3 features, unless the values are given."""
    return RaggedBatch(
        values=bytes(12 * sum(lengths)) if values is None else values, lengths=lengths
    )


def _with(number: float, at: int) -> bytes:
    """Two sequences of two steps of 3 features with a number of one's choice in them."""
    values = np.zeros(12, np.float32)
    values[at] = number
    return values.tobytes()


def _classify(
    sequences: RaggedBatch | None = None, *, model_name: str = "gru", top_k: int = 0
) -> ClassifyRequest:
    return ClassifyRequest(model_name=model_name, sequences=sequences or _batch(2), top_k=top_k)


BAD_REQUESTS = {
    "no input": (ClassifyRequest(model_name="gru"), "sequences.lengths", "at least one sequence"),
    "nothing at all": (ClassifyRequest(), "model_name", "'' cannot name a model"),
    "no sequences": (
        _classify(_batch()),
        "sequences.lengths",
        "at least one sequence is needed, none given",
    ),
    "length 0": (
        _classify(_batch(2, 0, 3)),
        "sequences.lengths[1]",
        "sequence 1 has 0 steps; at least 1 is needed",
    ),
    "too long": (
        _classify(_batch(2, 1025)),
        "sequences.lengths[1]",
        "sequence 1 has 1025 steps; gru version 1 accepts at most 1024",
    ),
    "wrong features": (
        _classify(_batch(2, values=bytes(4 * 2 * 5))),
        "sequences.values",
        "the sequences have 5 features a step; 3 are needed",
    ),
    "half a number": (
        _classify(_batch(2, values=bytes(23))),
        "sequences.values",
        "23 bytes",
    ),
    "numbers but no lengths": (
        _classify(RaggedBatch(values=bytes(24))),
        "sequences.lengths",
        "at least one sequence is needed, none given",
    ),
    "a length but no numbers": (
        _classify(RaggedBatch(lengths=[2])),
        "sequences.values",
        "values holds 0 bytes, but 2 steps of 3 float32 features take 24",
    ),
    "numbers but no steps": (
        _classify(_batch(0, values=bytes(24))),
        "sequences.values",
        "values holds 24 bytes, but 0 steps of 3 float32 features take 0",
    ),
    "lengths that add up to more": (
        _classify(_batch(2, 3, values=bytes(48))),
        "sequences.values",
        "values holds 48 bytes, but 5 steps of 3 float32 features take 60",
    ),
    "a length beyond all memory": (
        _classify(_batch(4_294_967_295, 4_294_967_295, values=b"")),
        "sequences.values",
        "values holds 0 bytes",
    ),
    "NaN": (
        _classify(_batch(2, 2, values=_with(np.nan, at=10))),
        "sequences.values[1]",
        "sequence 1 has nan at step 1, feature 1; every number must be finite",
    ),
    "infinity": (
        _classify(_batch(2, 2, values=_with(-np.inf, at=0))),
        "sequences.values[0]",
        "sequence 0 has -inf at step 0, feature 0",
    ),
    "top_k": (_classify(top_k=5), "top_k", "top_k is 5; gru version 1 has 4 classes"),
    "endless top_k": (
        _classify(top_k=2**32 - 1),
        "top_k",
        "top_k is 4294967295; gru version 1 has 4 classes",
    ),
    "a service class to come": (
        ClassifyRequest(model_name="gru", sequences=_batch(2), service_class=9),  # type: ignore[arg-type]
        "service_class",
        "service_class is 9; this server knows",
    ),
    "a choice to come": (
        ClassifyRequest(model_name="gru", sequences=_batch(2), on_invalid=-1),  # type: ignore[arg-type]
        "on_invalid",
        "on_invalid is -1; this server knows 0 for ON_INVALID_UNSPECIFIED",
    ),
    "no model name": (_classify(model_name=""), "model_name", "'' cannot name a model"),
    "a path": (_classify(model_name="../gru"), "model_name", "'../gru' cannot name a model"),
    "an endless name": (_classify(model_name="x" * 100_000), "model_name", "cannot name a model"),
    "both ways": (
        AdvanceRequest(model_name="both-ways", steps=_batch(2)),
        "model_name",
        "both-ways version 1 is bidirectional",
    ),
    "length 0 of a live sequence": (
        AdvanceRequest(model_name="gru", steps=_batch(0)),
        "steps.lengths[0]",
        "sequence 0 has 0 steps",
    ),
    "two tokens for one sequence": (
        AdvanceRequest(model_name="gru", steps=_batch(2), tokens=[b"", b""]),
        "tokens",
        "2 tokens for 1 sequences",
    ),
    "a token made up": (
        AdvanceRequest(model_name="gru", steps=_batch(2, 2), tokens=[b"", b"made up"]),
        "tokens[1]",
        "the token of sequence 1 is not one that this server gave",
    ),
}


@pytest.mark.parametrize(
    ("request_", "field", "words"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys()
)
def test_a_bad_request_is_told_what_is_wrong_and_where(
    server: Running, request_: ClassifyRequest | AdvanceRequest, field: str, words: str
) -> None:
    error = server.refusal(request_)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.message
    [violation] = error.detail.field_violations
    assert violation.field == field
    assert violation.description == error.message


_CLASSIFY = "/seqserve.v1.SequenceClassifier/Classify"
_ADVANCE = "/seqserve.v1.SequenceClassifier/Advance"
_LIST = "/seqserve.v1.ModelCatalog/ListModels"
_DESCRIBE = "/seqserve.v1.ModelCatalog/DescribeModel"
_LOAD = "/seqserve.v1.ModelRepository/LoadModel"
_UNLOAD = "/seqserve.v1.ModelRepository/UnloadModel"
_RELOAD = "/seqserve.v1.ModelRepository/ReloadRepository"
_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

_GRU = b"\x0a\x03gru"
_NOT_UTF_8 = b"\x0a\x02\xff\xfe"
UNDECODABLE = {
    "garbage": b"\xff\xff\xff\xff",
    "cut off": _GRU[:-1],
    "a group without an end": b"\x0b",
    "groups without end": b"\x0b" * 100_000,
    "a varint without end": b"\x08" + b"\x80" * 20,
}


def _call(server: Running, path: str, request: bytes) -> Callable[[], object]:
    """A call of the bytes as they are."""
    if path == _REFLECT:
        return lambda: list(
            server.channel.stream_stream(path, None, None)(iter([request]), timeout=TIMEOUT_S)
        )
    if path == _WATCH:
        return lambda: list(
            server.channel.unary_stream(path, None, None)(request, timeout=TIMEOUT_S)
        )
    return lambda: server.channel.unary_unary(path, None, None)(request, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def operated(run_server: RunServer, models: Path) -> Iterator[Running]:
    """A server whose operators may call."""
    with run_server(models, operator=True) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        *(
            pytest.param(path, request, id=f"{path.rpartition('/')[2]}: {name}")
            for path in (_CLASSIFY, _ADVANCE, _LIST, _DESCRIBE, _LOAD, _UNLOAD, _RELOAD, _CHECK)
            for name, request in UNDECODABLE.items()
        ),
        *(
            pytest.param(path, _NOT_UTF_8, id=f"{path.rpartition('/')[2]}: not UTF-8")
            for path in (_CLASSIFY, _ADVANCE, _LIST, _DESCRIBE, _LOAD, _UNLOAD, _CHECK)
        ),
    ],
)
def test_what_is_no_message_is_refused_by_every_method(
    operated: Running, path: str, request_: bytes
) -> None:
    error = operated.failure(_call(operated, path, request_))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "the request is not the message it should be"
    assert [each.description for each in error.detail.field_violations] == [error.message]


@pytest.mark.parametrize("path", [_WATCH, _REFLECT])
@pytest.mark.parametrize("request_", UNDECODABLE.values(), ids=UNDECODABLE.keys())
def test_what_is_no_message_ends_a_stream(server: Running, path: str, request_: bytes) -> None:
    error = server.failure(_call(server, path, request_))

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "the request is not the message it should be"


_HUGE = 2**64 - 1
_VERSION = b"\x10" + b"\xff" * 9 + b"\x01"
_STEPS = _batch(2).SerializeToString()
_SEQUENCES = b"\x1a" + bytes([len(_STEPS)]) + _STEPS


def _lengths(varint: bytes) -> bytes:
    """A request of one length as it is on the wire, and no values."""
    return _GRU + b"\x1a" + bytes([len(varint) + 2]) + b"\x12" + bytes([len(varint)]) + varint


Code = grpc.StatusCode
RAW = {
    # A protobuf parser keeps the lower 32 bits of a uint32.
    "a length of 2^63": (
        _CLASSIFY,
        _lengths(b"\x80" * 9 + b"\x01"),
        Code.INVALID_ARGUMENT,
        "sequences.lengths[0]",
        "sequence 0 has 0 steps",
    ),
    "a length of 2^64 - 1": (
        _CLASSIFY,
        _lengths(b"\xff" * 9 + b"\x01"),
        Code.INVALID_ARGUMENT,
        "sequences.values",
        "4294967295 steps",
    ),
    "a version beyond all versions": (
        _CLASSIFY,
        _GRU + _VERSION + _SEQUENCES,
        Code.NOT_FOUND,
        "",
        f"gru version {_HUGE}",
    ),
    "live, a version beyond all versions": (
        _ADVANCE,
        _GRU + _VERSION + _SEQUENCES,
        Code.NOT_FOUND,
        "",
        f"gru version {_HUGE}",
    ),
    "a model that is not there": (
        _CLASSIFY,
        b"\x0a\x04grue" + _SEQUENCES,
        Code.NOT_FOUND,
        "",
        "grue",
    ),
    "live, nothing at all": (
        _ADVANCE,
        b"",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'' cannot name a model",
    ),
    "live, no steps": (
        _ADVANCE,
        _GRU,
        Code.INVALID_ARGUMENT,
        "steps.lengths",
        "at least one sequence is needed",
    ),
    "live, top_k": (
        _ADVANCE,
        _GRU + _SEQUENCES + b"\x28\x05",
        Code.INVALID_ARGUMENT,
        "top_k",
        "top_k is 5; gru version 1 has 4 classes",
    ),
    "live, half a number": (
        _ADVANCE,
        _GRU + b"\x1a\x06" + b"\x0a\x01\x00" + b"\x12\x01\x01",
        Code.INVALID_ARGUMENT,
        "steps.values",
        "values holds 1 bytes, but 1 steps of 3 float32 features take 12",
    ),
    "a list of a path": (
        _LIST,
        b"\x0a\x06../gru",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'../gru' cannot name a model",
    ),
    "a description of nothing": (
        _DESCRIBE,
        b"",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'' cannot name a model",
    ),
    "a description of a path": (
        _DESCRIBE,
        b"\x0a\x06../gru",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'../gru' cannot name a model",
    ),
    "a description of no version": (
        _DESCRIBE,
        _GRU + _VERSION,
        Code.NOT_FOUND,
        "",
        f"{_HUGE}",
    ),
    "a load of nothing": (
        _LOAD,
        b"",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'' cannot name a model",
    ),
    "a load of a path": (
        _LOAD,
        b"\x0a\x06../gru",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'../gru' cannot name a model",
    ),
    "a load of no version": (_LOAD, _GRU + _VERSION, Code.NOT_FOUND, "", f"{_HUGE}"),
    "a load of no model": (_LOAD, b"\x0a\x04grue", Code.NOT_FOUND, "", "grue"),
    "an unload of nothing": (
        _UNLOAD,
        b"",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'' cannot name a model",
    ),
    "an unload of a path": (
        _UNLOAD,
        b"\x0a\x06../gru",
        Code.INVALID_ARGUMENT,
        "model_name",
        "'../gru' cannot name a model",
    ),
    "an unload of no version": (_UNLOAD, _GRU + _VERSION, Code.NOT_FOUND, "", f"{_HUGE}"),
    "the health of nobody": (_CHECK, b"\x0a\x04grue", Code.NOT_FOUND, "", ""),
}


@pytest.mark.parametrize(
    ("path", "request_", "code", "field", "words"), RAW.values(), ids=RAW.keys()
)
def test_any_field_of_any_method_that_cannot_be_is_told(
    operated: Running, path: str, request_: bytes, code: grpc.StatusCode, field: str, words: str
) -> None:
    error = operated.failure(_call(operated, path, request_))

    assert error.code is code
    assert words in error.message
    if code is Code.INVALID_ARGUMENT:
        assert [each.field for each in error.detail.field_violations] == [field]


def test_a_small_request_does_not_make_the_server_allocate(
    models: Path, transport: Transport
) -> None:
    batch = RaggedBatch(lengths=[2**32 - 1] * 16)
    live = AdvanceRequest(model_name="gru", steps=batch, tokens=[b""] * 16)
    small = [
        (_CLASSIFY, _classify(batch).SerializeToString()),
        (_CLASSIFY, _classify(_batch(1), top_k=2**32 - 1).SerializeToString()),
        (_ADVANCE, live.SerializeToString()),
        *(
            (path, _lengths(varint + b"\x01"))
            for path in (_CLASSIFY, _ADVANCE)
            for varint in (b"\x80" * 9, b"\xff" * 9)
        ),
    ]
    assert max(len(request) for _, request in small) < 150
    with (
        Server(models, transport, core=None) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        SequenceClassifierStub(channel).Classify(_classify(), timeout=TIMEOUT_S)
        before = server.peak_mib()
        for path, request in small:
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(path, None, None)(request, timeout=TIMEOUT_S)
            assert raised.value.code() is Code.INVALID_ARGUMENT
        grown = server.peak_mib() - before
    assert grown < 16


def test_a_path_that_is_not_utf_8_ends_its_call_alone(server: Running) -> None:
    address = server.server.address
    connection = Connection(address)
    headers = header_block(address, "/seqserve.v1", []).replace(b"/seqserve.v1", b"/seqserve.\xff1")
    connection.begin(1, headers, b"")
    connection.exchange(1.0)
    connection.close()

    assert server.classifier.Classify(_classify(), timeout=TIMEOUT_S).answers.labels
    assert server.health() == "SERVING"


def test_grpcio_inflates_no_more_than_it_accepts(models: Path) -> None:
    limit = 4 << 20
    bomb = gzip.compress(_GRU + bytes(1 << 29), 1)
    with Server(models, "grpcio", core=None, options=["--max-message-bytes", str(limit)]) as server:
        before = server.peak_mib()
        connection = Connection(server.address)
        headers = header_block(server.address, _CLASSIFY, [("grpc-encoding", "gzip")])
        connection.begin(1, headers, struct.pack(">BI", 1, len(bomb)) + bomb)
        while not any(over for *_, over in connection.exchange(None)):
            pass
        connection.close()
        grown = server.peak_mib() - before
        with grpc.insecure_channel(server.address) as channel:
            fitting = SequenceClassifierStub(channel).Classify(_classify(), timeout=TIMEOUT_S)
    assert grown < 8 * (limit >> 20)
    assert fitting.answers.labels


@pytest.mark.parametrize(
    ("limits", "request_", "words"),
    [
        pytest.param(
            {"max_request_sequences": 3},
            _classify(_batch(1, 1, 1, 1)),
            "4 sequences; at most 3 are accepted in a request (--max-request-sequences)",
            id="sequences",
        ),
        pytest.param(
            {"max_request_sequences": 3},
            AdvanceRequest(model_name="gru", steps=_batch(1), tokens=[b""] * 4),
            "4 sequences; at most 3 are accepted in a request (--max-request-sequences)",
            id="tokens",
        ),
        pytest.param(
            {"max_request_steps": 10},
            _classify(_batch(6, 5)),
            "11 steps in all; at most 10 are accepted in a request (--max-request-steps)",
            id="steps",
        ),
    ],
)
def test_a_request_over_a_limit_is_told_which(
    run_server: RunServer,
    models: Path,
    limits: Mapping[str, int],
    request_: ClassifyRequest | AdvanceRequest,
    words: str,
) -> None:
    with run_server(models, **limits) as server:  # type: ignore[arg-type]
        error = server.refusal(request_)
        fitting = server.classifier.Classify(_classify(), timeout=TIMEOUT_S)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == words
    assert fitting.answers.labels


def test_a_message_over_the_limit_is_told_the_limit(run_server: RunServer, models: Path) -> None:
    request = _classify(_batch(200))
    with run_server(models, max_message_bytes=2000) as server:
        error = server.refusal(request)

    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == (
        f"a message of {request.ByteSize()} bytes; at most 2000 are accepted (--max-message-bytes)"
    )


def test_a_message_of_twice_the_limit_is_refused_by_the_transport(
    run_server: RunServer, models: Path
) -> None:
    with run_server(models, max_message_bytes=2000) as server:
        error = server.refusal(_classify(_batch(400)))
        fitting = server.classifier.Classify(_classify(_batch(100)), timeout=TIMEOUT_S)

    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4000" in error.message
    assert fitting.answers.labels

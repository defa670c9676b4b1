"""A caller beside the load, in a process of its own: what it is told, and how soon.

It calls as any gRPC client does: each time one Health.Check and one Classify.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub

_PAUSE_S = 0.02
_PATIENCE_S = 60.0
_FULL = grpc.StatusCode.RESOURCE_EXHAUSTED.name


@dataclass
class Probed:
    """What a prober was told, call by call."""

    health_s: list[float] = field(default_factory=list)
    """How long each Health.Check took; infinite where it failed."""
    codes: list[str] = field(default_factory=list)
    """The status of each Classify."""
    took_s: list[float] = field(default_factory=list)
    """How long each Classify took."""
    retry_s: list[float] = field(default_factory=list)
    """What each Classify carried as RetryInfo; 0 where none."""

    def refusals_s(self) -> list[float]:
        """How long those took that were refused for want of room."""
        return [took for took, code in zip(self.took_s, self.codes, strict=True) if code == _FULL]

    def retries_s(self) -> list[float]:
        """What those carried."""
        return [
            retry for retry, code in zip(self.retry_s, self.codes, strict=True) if code == _FULL
        ]


@contextmanager
def probing(address: str, message: bytes | None = None, timeout_s: float = 1.0) -> Iterator[Probed]:
    """Probes a server while the context lasts; what was found is there after it.

    Args:
        address: HOST:PORT, plaintext.
        message: A serialised ClassifyRequest; None for health alone.
        timeout_s: Of Classify.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_probe, args=(there, address, message, timeout_s), daemon=True)
    process.start()
    here.recv()  # it has had its first answer
    probed = Probed()
    try:
        yield probed
    finally:
        here.send(None)
        if here.poll(_PATIENCE_S):
            vars(probed).update(vars(here.recv()))
        process.join()


def _probe(pipe: Connection, address: str, message: bytes | None, timeout_s: float) -> None:
    probed = Probed()
    with grpc.insecure_channel(address) as channel:
        health, classifier = HealthStub(channel), SequenceClassifierStub(channel)
        request = None if message is None else ClassifyRequest.FromString(message)
        health.Check(HealthCheckRequest(), timeout=_PATIENCE_S)
        pipe.send(None)
        while not pipe.poll(_PAUSE_S):
            begin = time.perf_counter()
            try:
                health.Check(HealthCheckRequest(), timeout=_PATIENCE_S)
                probed.health_s.append(time.perf_counter() - begin)
            except grpc.RpcError:
                probed.health_s.append(float("inf"))
            if request is not None:
                _classify(classifier, request, timeout_s, probed)
    pipe.recv()
    pipe.send(probed)


def _classify(
    classifier: SequenceClassifierStub, request: ClassifyRequest, timeout_s: float, probed: Probed
) -> None:
    begin, retry_s, code = time.perf_counter(), 0.0, grpc.StatusCode.OK
    try:
        classifier.Classify(request, timeout=timeout_s)
    except grpc.RpcError as error:
        call: grpc.Call = error  # type: ignore[assignment]
        code = call.code()
        status = rpc_status.from_call(call)
        for detail in status.details if status else ():
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    probed.took_s.append(time.perf_counter() - begin)
    probed.codes.append(code.name)
    probed.retry_s.append(retry_s)

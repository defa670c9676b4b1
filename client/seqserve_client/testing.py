"""A server for tests: real gRPC on a port of its own, answers by rule, failures on demand.

In a test:

    with FakeServer(labels=["cat", "dog"]) as server, Client(server.address) as client:
        assert client.classify([[0.1, 0.2]], model="model").labels == ("cat",)

        server.fail(grpc.StatusCode.UNAVAILABLE, times=2)  # the client tries again
        assert client.classify([[1.1]], model="model").labels == ("dog",)
        assert len(server.calls) == 4
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_status import rpc_status
from numpy.typing import ArrayLike, NDArray

from seqserve.errors import InvalidRagged
from seqserve.ragged import RaggedBatch, decode, encode, encode_matrix
from seqserve.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    classifier_pb2,
    classifier_pb2_grpc,
    repository_pb2,
    repository_pb2_grpc,
)
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve.v1.sequences_pb2 import Answers
from seqserve.v1.sequences_pb2 import RaggedBatch as RaggedMessage
from seqserve_client.fake_health import FakeHealth
from seqserve_client.service_class import ServiceClass

# What grpcio gives for calls without a deadline is longer.
_AN_AGE_S = 1e12
# A manifest has to name a number.
_ANY_STEPS = 2**62

Rule = Callable[[NDArray[np.float32]], str | ArrayLike]
"""From one sequence, (steps, features), to its label or its logits, (classes,)."""


@dataclass(frozen=True)
class Call:
    """A call that reached the server, whether or not it was answered."""

    method: str
    """Its name, as `Classify` or `LoadModel`."""
    request: Any
    """The message of `seqserve.v1`."""
    metadata: dict[str, str | bytes]
    """The caller's headers."""
    time_remaining_s: float
    """Until the caller's deadline; infinite where it set none."""

    @property
    def service_class(self) -> ServiceClass:
        """How urgent a `Classify` is to its caller."""
        bulk = self.request.service_class == classifier_pb2.SERVICE_CLASS_BULK
        return ServiceClass.BULK if bulk else ServiceClass.INTERACTIVE


@dataclass
class _Planned:
    """A failure to come."""

    status: grpc.Status
    times: int
    method: str | None


class FakeServer:
    """Serves one model that answers by rule, at `address`, as a context manager.

    Without a rule, a sequence is of the class whose index is nearest to the mean of its numbers.

    Args:
        labels: The model's classes.
        answer: One label for every sequence, or a rule that is called with each.
        model: The model's name.
        version: Its version; `publish` adds others.
        features: Features a step that the model accepts, or their names; None for any number.
        max_steps: Steps of the longest sequence that it accepts; None for any number.

    Raises:
        ValueError: the answer is none of the labels.
    """

    def __init__(
        self,
        labels: Sequence[str] = ("0", "1"),
        *,
        answer: str | Rule | None = None,
        model: str = "model",
        version: int = 1,
        features: int | Sequence[str] | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.labels = tuple(labels)
        if isinstance(answer, str):
            self._column(answer)
        self.model = model
        self.feature_names = () if isinstance(features, int | None) else tuple(features)
        self.features = features if isinstance(features, int | None) else len(features)
        self.max_steps = max_steps
        self.calls: list[Call] = []
        """Every call so far, in the order of arrival; those of grpc.health.v1 apart."""
        self._answer = answer
        self._versions = [version]
        self._planned: list[_Planned] = []
        self._lock = threading.Lock()
        self._health = FakeHealth()
        self._server: grpc.Server | None = None
        self._port = 0

    def __enter__(self) -> Self:
        """The server, started."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the server; calls under way are cancelled."""
        self.stop()

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:port`."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listens, on a free port the first time and on the same one after a `stop`."""
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=8, thread_name_prefix="fake-server"),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.so_reuseport", 0),
                # As often as a client's keepalive may ask, where the default is five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 0),
            ],
        )
        classifier_pb2_grpc.add_SequenceClassifierServicer_to_server(_Classifier(self), server)
        catalog_pb2_grpc.add_ModelCatalogServicer_to_server(_Catalog(self), server)
        repository_pb2_grpc.add_ModelRepositoryServicer_to_server(_Repository(self), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._port = server.add_insecure_port(self.address)
        self.set_ready(True)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Closes every connection at once; starting again is possible."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def set_ready(self, ready: bool) -> None:
        """What grpc.health.v1 says from now on, of the server and of the model."""
        status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for service in ("", self.model):
            self._health.set(service, status)

    def publish(self, version: int) -> None:
        """Serves one more version, which answers alike."""
        self._versions.append(version)

    def fail(
        self,
        code: grpc.StatusCode,
        message: str = "as the test asked",
        *,
        times: int = 1,
        method: str | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        """Fails calls to come; the one asked for first comes first.

        Args:
            code: The status they get.
            message: Its message.
            times: How many calls.
            method: Only calls of this name, such as `Classify`.
            details: google.rpc messages for the status: `BadRequest`, `RetryInfo`, …
        """
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            status.details.add().Pack(detail)
        self._planned.append(_Planned(rpc_status.to_status(status), times, method))

    def _enter(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        """Writes the call down, and fails it where that was asked for."""
        metadata = dict(context.invocation_metadata())
        remaining = context.time_remaining()
        if remaining is None or remaining > _AN_AGE_S:
            remaining = math.inf
        with self._lock:
            self.calls.append(Call(method, request, metadata, remaining))
            planned = next((one for one in self._planned if one.method in (None, method)), None)
            if planned is not None:
                planned.times -= 1
                self._planned = [one for one in self._planned if one.times > 0]
        if planned is not None:
            context.abort_with_status(planned.status)

    def _chosen(self, model: str, version: int, context: grpc.ServicerContext) -> int:
        """The version that answers."""
        known = sorted(self._versions)
        if model != self.model or not known or version not in (0, *known):
            asked = f"{model} version {version}" if version else model
            text = f"{asked} is not served; {self.model} is, in versions {known}"
            context.abort(grpc.StatusCode.NOT_FOUND, text)
        return version or known[-1]

    def _sequences(
        self, message: RaggedMessage, field: str, context: grpc.ServicerContext
    ) -> RaggedBatch:
        """The sequences of a message, each of which must be good."""
        batch = self._decoded(message, field, context)
        for wrong in self._invalid(batch, field):
            _refuse(context, wrong.field, wrong.description, wrong.index)
        return batch

    def _decoded(
        self, message: RaggedMessage, field: str, context: grpc.ServicerContext
    ) -> RaggedBatch:
        steps = max(1, sum(message.lengths))
        features = self.features or max(1, len(message.values) // (4 * steps))
        try:
            return decode(message, features, admit_empty=True)
        except InvalidRagged as error:
            _refuse(context, f"{field}.{error.field}", str(error), error.sequence)

    def _invalid(self, batch: RaggedBatch, field: str) -> list[classifier_pb2.InvalidSequence]:
        """The sequences that a true server would not take either."""
        wrong = []
        for index, sequence in enumerate(batch):
            steps = len(sequence)
            if not steps:
                text = f"sequence {index} has 0 steps; at least 1 is needed"
                wrong.append((index, f"{field}.lengths", text))
            elif self.max_steps is not None and steps > self.max_steps:
                text = f"sequence {index} has {steps} steps; {self.model} accepts {self.max_steps}"
                wrong.append((index, f"{field}.lengths", text))
            elif not np.isfinite(sequence).all():
                wrong.append((index, f"{field}.values", f"sequence {index} has NaN or inf"))
        return [
            classifier_pb2.InvalidSequence(index=index, field=where, description=text)
            for index, where, text in wrong
        ]

    def _answers_to_rest(
        self,
        batch: RaggedBatch,
        invalid: Sequence[classifier_pb2.InvalidSequence],
        top_k: int,
        context: grpc.ServicerContext,
    ) -> Answers:
        """Gaps for the invalid ones, answers for the others."""
        refused = {each.index for each in invalid}
        rest = [sequence for index, sequence in enumerate(batch) if index not in refused]
        answers = self._answers(rest, top_k, context)
        width, columns = max(1, top_k), top_k or len(self.labels)
        kept = [index for index in range(len(batch)) if index not in refused]
        labels = np.full((len(batch), width), "", object)
        labels[kept] = np.reshape(np.array(answers.labels, object), (len(kept), width))
        answers.labels[:] = labels.ravel().tolist()
        for field in ("probabilities", "logits"):
            numbers = np.full((len(batch), columns), np.nan, np.float32)
            numbers[kept] = np.frombuffer(getattr(answers, field), "<f4").reshape(-1, columns)
            setattr(answers, field, encode_matrix(numbers))
        return answers

    def _answers(
        self,
        sequences: Iterable[NDArray[np.float32]],
        top_k: int,
        context: grpc.ServicerContext,
    ) -> Answers:
        if top_k > len(self.labels):
            text = f"top_k is {top_k}; {self.model} has {len(self.labels)} classes"
            _refuse(context, "top_k", text, None)
        try:
            rows = [self._logits(sequence) for sequence in sequences]
            logits = np.array(rows, np.float32).reshape(-1, len(self.labels))
        except ValueError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"the fake server's rule: {error}")
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : top_k or 1]
        if top_k:
            logits = np.take_along_axis(logits, order, axis=1)
            probabilities = np.take_along_axis(probabilities, order, axis=1)
        return Answers(
            labels=[self.labels[column] for column in order.ravel()],
            classes=() if top_k else self.labels,
            probabilities=encode_matrix(probabilities),
            logits=encode_matrix(logits),
        )

    def _logits(self, sequence: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._answer is None:
            nearest = -abs(np.arange(len(self.labels), dtype=np.float32) - sequence.mean())
            return np.asarray(nearest, np.float32)
        answer = self._answer if isinstance(self._answer, str) else self._answer(sequence)
        if isinstance(answer, str):
            logits = np.zeros(len(self.labels), np.float32)
            logits[self._column(answer)] = 1
            return logits
        logits = np.asarray(answer, np.float32)
        if logits.shape != (len(self.labels),):
            raise ValueError(f"logits of shape {logits.shape} for {len(self.labels)} labels")
        return logits

    def _column(self, label: str) -> int:
        if label not in self.labels:
            raise ValueError(f"{label!r} is none of the labels {', '.join(self.labels)}")
        return self.labels.index(label)

    def _digest(self, version: int) -> str:
        return f"{version:064x}"

    def _statuses(self) -> Iterator[catalog_pb2.ModelStatus]:
        return map(self._status, sorted(self._versions))

    def _status(self, version: int) -> catalog_pb2.ModelStatus:
        return catalog_pb2.ModelStatus(
            name=self.model,
            version=version,
            state=catalog_pb2.MODEL_STATE_READY,
            digest=self._digest(version),
            execution_provider="FakeExecutionProvider",
        )


class _Classifier(classifier_pb2_grpc.SequenceClassifierServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def Classify(  # noqa: N802
        self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.ClassifyResponse:
        fake = self._fake
        fake._enter("Classify", request, context)
        version = fake._chosen(request.model_name, request.model_version, context)
        batch = fake._decoded(request.sequences, "sequences", context)
        invalid = fake._invalid(batch, "sequences")
        if invalid and request.on_invalid != classifier_pb2.ON_INVALID_ANSWER_REST:
            first = invalid[0]
            _refuse(context, first.field, first.description, first.index)
        return classifier_pb2.ClassifyResponse(
            model_name=fake.model,
            model_version=version,
            model_digest=fake._digest(version),
            answers=fake._answers_to_rest(batch, invalid, request.top_k, context),
            invalid=invalid,
        )

    def Advance(  # noqa: N802
        self, request: classifier_pb2.AdvanceRequest, context: grpc.ServicerContext
    ) -> classifier_pb2.AdvanceResponse:
        fake = self._fake
        fake._enter("Advance", request, context)
        version = fake._chosen(request.model_name, request.model_version, context)
        steps = fake._sequences(request.steps, "steps", context)
        tokens = request.tokens or [b""] * len(steps)
        sequences = []
        for index, (new, token) in enumerate(zip(steps, tokens, strict=True)):
            try:
                sequences.append(_continued(new, token))
            except (InvalidRagged, DecodeError):
                text = f"the token of sequence {index} was not made here, or was altered"
                _refuse(context, "tokens", text, index)
        batch = RaggedBatch.from_sequences(sequences)
        return classifier_pb2.AdvanceResponse(
            model_name=fake.model,
            model_version=version,
            model_digest=fake._digest(version),
            answers=fake._answers(batch, request.top_k, context),
            tokens=[
                encode(RaggedBatch.from_sequences([sequence])).SerializeToString()
                for sequence in sequences
            ],
            steps=[len(sequence) for sequence in sequences],
        )


class _Catalog(catalog_pb2_grpc.ModelCatalogServicer):
    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def ListModels(  # noqa: N802
        self, request: catalog_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.ListModelsResponse:
        self._fake._enter("ListModels", request, context)
        return catalog_pb2.ListModelsResponse(models=self._fake._statuses())

    def DescribeModel(  # noqa: N802
        self, request: catalog_pb2.DescribeModelRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.DescribeModelResponse:
        fake = self._fake
        fake._enter("DescribeModel", request, context)
        version = fake._chosen(request.model_name, request.model_version, context)
        manifest = ModelManifest(
            format_version=1, name=fake.model, version=version, labels=fake.labels
        )
        manifest.input.features.size = fake.features or 1
        manifest.limits.max_steps = fake.max_steps or _ANY_STEPS
        manifest.input.features.names.extend(fake.feature_names)
        status = next(one for one in fake._statuses() if one.version == version)
        return catalog_pb2.DescribeModelResponse(status=status, manifest=manifest)


class _Repository(repository_pb2_grpc.ModelRepositoryServicer):
    """Loads whatever version is asked for."""

    def __init__(self, fake: FakeServer) -> None:
        self._fake = fake

    def LoadModel(  # noqa: N802
        self, request: repository_pb2.LoadModelRequest, context: grpc.ServicerContext
    ) -> repository_pb2.LoadModelResponse:
        fake = self._fake
        fake._enter("LoadModel", request, context)
        wanted = request.model_version
        if request.model_name == fake.model and wanted and wanted not in fake._versions:
            fake.publish(wanted)
        version = fake._chosen(request.model_name, wanted, context)
        return repository_pb2.LoadModelResponse(status=fake._status(version))

    def UnloadModel(  # noqa: N802
        self, request: repository_pb2.UnloadModelRequest, context: grpc.ServicerContext
    ) -> repository_pb2.UnloadModelResponse:
        fake = self._fake
        fake._enter("UnloadModel", request, context)
        version = fake._chosen(request.model_name, request.model_version, context)
        fake._versions.remove(version)
        status = catalog_pb2.ModelStatus(
            name=fake.model,
            version=version,
            state=catalog_pb2.MODEL_STATE_UNLOADED,
            message="was taken out of service",
        )
        return repository_pb2.UnloadModelResponse(status=status)

    def ReloadRepository(  # noqa: N802
        self, request: repository_pb2.ReloadRepositoryRequest, context: grpc.ServicerContext
    ) -> repository_pb2.ReloadRepositoryResponse:
        self._fake._enter("ReloadRepository", request, context)
        return repository_pb2.ReloadRepositoryResponse(models=self._fake._statuses())


def _continued(steps: NDArray[np.float32], token: bytes) -> NDArray[np.float32]:
    """The sequence so far: the fake's tokens simply hold it."""
    if not token:
        return steps
    so_far = decode(RaggedMessage.FromString(token), steps.shape[1])
    return np.concatenate([so_far.values, steps])


def _refuse(
    context: grpc.ServicerContext, field: str, message: str, sequence: int | None
) -> NoReturn:
    """INVALID_ARGUMENT with the details that the true server gives."""
    place = field if sequence is None else f"{field}[{sequence}]"
    violation = error_details_pb2.BadRequest.FieldViolation(field=place, description=message)
    status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=message)
    status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")

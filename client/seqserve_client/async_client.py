"""The client for an event loop: `Client`, awaited."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from seqserve.v1.catalog_pb2 import DescribeModelRequest, ListModelsRequest
from seqserve.v1.catalog_pb2_grpc import ModelCatalogStub
from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_client import administration, connection, defaults, live
from seqserve_client.async_coalescing import AsyncCoalescer
from seqserve_client.batching import (
    Answered,
    Piece,
    Sequences,
    as_batch,
    checked_choice,
    checked_number,
    cut,
    outdated,
    single,
)
from seqserve_client.catalog import ModelDescription, ModelStatus, statuses
from seqserve_client.channel import Target, open_async_channel
from seqserve_client.classification import Classification, merged
from seqserve_client.connection import File
from seqserve_client.deadline import Deadline
from seqserve_client.errors import DeadlineExceeded, ModelNotFound, Unavailable
from seqserve_client.gathering import Kind
from seqserve_client.live import AsyncLiveSequence, Progress
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.options import Metadata, Options
from seqserve_client.service_class import ServiceClass
from seqserve_client.status import typed_errors

if TYPE_CHECKING:
    from grpc_health.v1.health_pb2_grpc import HealthAsyncStub

    from seqserve.v1.catalog_pb2_grpc import ModelCatalogAsyncStub
    from seqserve.v1.classifier_pb2_grpc import SequenceClassifierAsyncStub
    from seqserve.v1.repository_pb2_grpc import ModelRepositoryAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncClient:
    """Calls a seqserve server, or several replicas of it in turn, from one event loop.

    Any number of tasks may call at a time; cancelling one cancels its requests.

        async with AsyncClient("127.0.0.1:8001") as client:
            answer = await client.classify([np.zeros((9, 12), np.float32)], model="speakers")

    Args:
        address: As in `Client`, which explains every option.
        credentials: For TLS.
        tls: TLS, to servers of an authority that gRPC knows.
        ca_file: TLS, to servers of these authorities.
        certificate_file: The client's own certificate, for mutual TLS.
        key_file: The private key of that.
        token: What every call shows to be let in.
        token_file: The file that holds it.
        token_in_plaintext: Let the token leave this host without TLS.
        metadata: Headers sent with every call.
        timeout_s: For calls that give none.
        max_message_bytes: Bytes of a request beyond which a batch is cut.
        max_request_sequences: Sequences of a request beyond which a batch is cut.
        max_request_steps: Steps of a request beyond which a batch is cut.
        max_in_flight: Requests of one call under way at a time.
        coalesce_sequences: Calls of a single sequence that leave as one request, at most.
        coalesce_delay_s: How long such a call waits for others.
        keepalive_s: When a silent server is asked whether it is there.
        keepalive_timeout_s: How long it may take to say so.

    Raises:
        InvalidOptions: an option cannot be.
        Unavailable: a name in a list of servers has no address.
    """

    def __init__(
        self,
        address: str = defaults.ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        tls: bool = False,
        ca_file: File | None = None,
        certificate_file: File | None = None,
        key_file: File | None = None,
        token: str | None = None,
        token_file: File | None = None,
        token_in_plaintext: bool = False,
        metadata: Metadata = (),
        timeout_s: float = defaults.TIMEOUT_S,
        max_message_bytes: int = defaults.MAX_MESSAGE_BYTES,
        max_request_sequences: int = defaults.MAX_REQUEST_SEQUENCES,
        max_request_steps: int = defaults.MAX_REQUEST_STEPS,
        max_in_flight: int = defaults.MAX_IN_FLIGHT,
        coalesce_sequences: int = defaults.COALESCE_SEQUENCES,
        coalesce_delay_s: float = defaults.COALESCE_DELAY_S,
        keepalive_s: float = defaults.KEEPALIVE_S,
        keepalive_timeout_s: float = defaults.KEEPALIVE_TIMEOUT_S,
    ) -> None:
        self.options = Options(
            address=address,
            credentials=connection.channel_credentials(
                credentials,
                tls=tls,
                ca_file=ca_file,
                certificate_file=certificate_file,
                key_file=key_file,
            ),
            token=connection.token(token, token_file),
            token_in_plaintext=token_in_plaintext,
            metadata=tuple(metadata),
            timeout_s=timeout_s,
            max_message_bytes=max_message_bytes,
            max_request_sequences=max_request_sequences,
            max_request_steps=max_request_steps,
            max_in_flight=max_in_flight,
            coalesce_sequences=coalesce_sequences,
            coalesce_delay_s=coalesce_delay_s,
            keepalive_s=keepalive_s,
            keepalive_timeout_s=keepalive_timeout_s,
        )
        self._target = Target.parse(address)
        self._coalescer = AsyncCoalescer(
            self.options,
            lambda request, deadline: self._call(self._classifier.Classify, request, deadline),
        )

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        self._coalescer.close()
        for channel in (self._channel, self._channel_to_any):
            await channel.close(None)

    async def classify(
        self,
        sequences: Sequences,
        *,
        model: str,
        version: int = 0,
        top_k: int = 0,
        service_class: ServiceClass | str = ServiceClass.INTERACTIVE,
        on_invalid: OnInvalid | str = OnInvalid.REJECT,
        timeout_s: float | None = None,
    ) -> Classification:
        """Classifies whole sequences, as `Client.classify` does."""
        deadline = self.options.deadline(timeout_s)
        urgency = checked_choice("service_class", ServiceClass, service_class)
        choice = checked_choice("on_invalid", OnInvalid, on_invalid)
        sequence = single(sequences)
        if sequence is not None:
            checked_number("version", version)
            checked_number("top_k", top_k)
            kind = Kind(model, version, top_k, urgency, sequence.shape[1])
            answers = await self._coalescer.classify(sequence, kind, deadline)
            return answers.checked(choice)
        pieces = cut(
            as_batch(sequences, choice),
            self.options,
            model=model,
            version=version,
            top_k=top_k,
            service_class=urgency,
            on_invalid=choice,
        )
        answered = await self._ask(pieces, deadline)
        answered |= await self._ask(outdated(pieces, answered), deadline)
        return merged(pieces, answered)

    async def advance(
        self,
        steps: Sequences,
        *,
        model: str,
        tokens: Sequence[bytes] | None = None,
        version: int = 0,
        top_k: int = 0,
        timeout_s: float | None = None,
    ) -> Progress:
        """Adds steps to live sequences and answers for all so far, as `Client.advance` does."""
        deadline = self.options.deadline(timeout_s)
        request = live.request(steps, tokens, model=model, version=version, top_k=top_k)
        response = await self._call(self._classifier.Advance, request, deadline)
        return live.progress(response, request)

    def live(self, *, model: str, version: int = 0, top_k: int = 0) -> AsyncLiveSequence:
        """A new live sequence, which keeps its own token."""
        return AsyncLiveSequence(self, model=model, version=version, top_k=top_k)

    async def describe(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """The manifest of one version and its state, as `Client.describe` gives them."""
        request = DescribeModelRequest(model_name=model, model_version=version)
        deadline = self.options.deadline(timeout_s)
        return ModelDescription.of(await self._call(self._catalog.DescribeModel, request, deadline))

    async def models(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """Every version the server knows, by name and then version."""
        deadline = self.options.deadline(timeout_s)
        response = await self._call(self._catalog.ListModels, ListModelsRequest(), deadline)
        return statuses(response.models)

    async def load_model(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelStatus:
        """Has a server serve a version, as `Client.load_model` does."""
        request, deadline = administration.load(model, version), self.options.deadline(timeout_s)
        response = await self._call(self._repository.LoadModel, request, deadline)
        return ModelStatus.of(response.status)

    async def unload_model(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelStatus:
        """Has a server take a version out of service, as `Client.unload_model` does."""
        request, deadline = administration.unload(model, version), self.options.deadline(timeout_s)
        response = await self._call(self._repository.UnloadModel, request, deadline)
        return ModelStatus.of(response.status)

    async def reload_repository(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """Has a server look at its repository again, as `Client.reload_repository` does."""
        request, deadline = ReloadRepositoryRequest(), self.options.deadline(timeout_s)
        response = await self._call(self._repository.ReloadRepository, request, deadline)
        return statuses(response.models)

    async def ready(self, model: str | None = None, *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, answers calls now, as `Client.ready` says."""
        request = HealthCheckRequest(service=model or "")
        deadline = self.options.deadline(timeout_s)
        try:
            response = await self._call(self._health.Check, request, deadline)
        except (Unavailable, DeadlineExceeded, ModelNotFound):
            return False
        return bool(response.status == HealthCheckResponse.SERVING)

    # Made when first needed, since a channel belongs to the event loop it is made in.
    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return open_async_channel(self._target, self.options)

    @cached_property
    def _channel_to_any(self) -> grpc.aio.Channel:
        return open_async_channel(self._target, self.options, to_any=True)

    @cached_property
    def _classifier(self) -> SequenceClassifierAsyncStub:
        return SequenceClassifierStub(self._channel)

    @cached_property
    def _catalog(self) -> ModelCatalogAsyncStub:
        return ModelCatalogStub(self._channel_to_any)

    @cached_property
    def _repository(self) -> ModelRepositoryAsyncStub:
        return ModelRepositoryStub(self._channel_to_any)

    @cached_property
    def _health(self) -> HealthAsyncStub:
        return HealthStub(self._channel_to_any)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        deadline: Deadline,
    ) -> Response:
        with typed_errors(self.options.address):
            return await method(
                request, timeout=deadline.remaining_s(), metadata=self.options.call_metadata()
            )

    async def _ask(self, pieces: Sequence[Piece], deadline: Deadline) -> Answered:
        """The response to each piece; `max_in_flight` are under way at a time."""
        answered: Answered = {}
        under_way: dict[int, grpc.aio.UnaryUnaryCall[ClassifyRequest, ClassifyResponse]] = {}
        window = self.options.max_in_flight
        try:
            for turn in range(len(pieces) + window):
                if turn >= window:
                    first = pieces[turn - window].first
                    with typed_errors(self.options.address, first):
                        answered[first] = await under_way.pop(first)
                if turn < len(pieces):
                    under_way[pieces[turn].first] = self._classifier.Classify(
                        pieces[turn].request(),
                        timeout=deadline.remaining_s(),
                        metadata=self.options.call_metadata(),
                    )
        finally:
            for call in under_way.values():
                call.cancel()
        return answered

"""The client for threads: every call waits for its answer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from seqserve.v1.catalog_pb2 import DescribeModelRequest, ListModelsRequest
from seqserve.v1.catalog_pb2_grpc import ModelCatalogStub
from seqserve.v1.classifier_pb2 import ClassifyResponse
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_client import administration, connection, defaults, live
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
from seqserve_client.channel import Target, open_channel
from seqserve_client.classification import Classification, merged
from seqserve_client.coalescing import Coalescer
from seqserve_client.connection import File
from seqserve_client.deadline import Deadline
from seqserve_client.errors import DeadlineExceeded, ModelNotFound, Unavailable
from seqserve_client.gathering import Kind
from seqserve_client.live import LiveSequence, Progress
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.options import Metadata, Options
from seqserve_client.service_class import ServiceClass
from seqserve_client.status import typed_errors

Request = TypeVar("Request")
Response = TypeVar("Response")


class Client:
    """Calls a seqserve server, or several replicas of it in turn.

    Made to be kept: connections are opened once, and any number of threads may call at a time.

        with Client("127.0.0.1:8001") as client:
            answer = client.classify([np.zeros((9, 12), np.float32)], model="speakers")
            print(answer.labels, answer.probabilities)

    Threads that classify one sequence each at the same time share requests, since a request costs
    a Python process many times what a sequence does: by default, a call that finds more than a few
    others under way waits for company, some milliseconds at most. Everything else is as if it had
    left by itself: its answer bit for bit, its timeout, its errors. Calls by few threads, calls
    that come one after the other, and those of the main thread always leave at once. An answer
    comes when the longest sequence of its request has been classified: where single answers
    matter more than many, `coalesce_sequences=1` sends every call by itself.

    Args:
        address: `host:port`; several with commas, which calls go round; or a URI in gRPC's naming
            scheme. A single name stands for all of its addresses, and is looked up again when a
            connection fails and every minute; names in a list are looked up once, here.
        credentials: For TLS, made by `grpc`; plaintext without, unless one of the next four says
            otherwise.
        tls: TLS, to servers whose certificate is signed by an authority that gRPC knows.
        ca_file: TLS, to servers whose certificate is signed by one of those in this PEM file.
        certificate_file: The client's own certificate chain in PEM, for mutual TLS.
        key_file: The private key of that in PEM.
        token: What every call shows to be let in.
        token_file: The file that holds it; read again when it changes.
        token_in_plaintext: Let the token leave this host without TLS.
        metadata: Headers sent with every call.
        timeout_s: For calls that give none, in seconds; `math.inf` waits for ever.
        max_message_bytes: Bytes of a request beyond which a batch is cut. A sequence that is
            longer travels alone. The server's own limit is 64 MiB unless set otherwise.
        max_request_sequences: Sequences of a request beyond which a batch is cut.
        max_request_steps: Steps of a request beyond which a batch is cut.
        max_in_flight: Requests of one call under way at a time.
        coalesce_sequences: Calls of a single sequence that leave as one request, at most.
        coalesce_delay_s: How long such a call waits for others, in seconds for each request that
            is under way already.
        keepalive_s: With calls under way, a server silent for so long is asked whether it is there;
            `math.inf` never asks.
        keepalive_timeout_s: One that does not say so for so long is gone: its calls fail or go to
            another.

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
        target = Target.parse(address)
        self._channel = open_channel(target, self.options)
        self._channel_to_any = open_channel(target, self.options, to_any=True)
        self._classifier = SequenceClassifierStub(self._channel)
        self._catalog = ModelCatalogStub(self._channel_to_any)
        self._repository = ModelRepositoryStub(self._channel_to_any)
        self._health = HealthStub(self._channel_to_any)
        classify = partial(self._call, self._classifier.Classify)
        self._coalescer = Coalescer(self.options, classify)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        self._coalescer.close()
        self._channel.close()
        self._channel_to_any.close()

    def classify(
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
        """Classifies whole sequences.

        A batch over one of the client's limits for a request is cut into several requests. One
        version answers all of them: the one asked for or else the newest that answered any.

        Args:
            sequences: Arrays of shape (steps, features), or one `seqserve.ragged.RaggedBatch`.
            model: The model's name.
            version: A positive integer; 0 for the newest that is served.
            top_k: How many classes an answer names; 0 for all of them.
            service_class: Whether somebody waits, or the call takes what others leave.
            on_invalid: Whether sequences that the model cannot take fail the call or are left out
                of it: those of no steps, too long ones, those with a number that is not finite.
                What makes no batch or is over a limit of the server fails the call either way.
            timeout_s: For the whole call, retries included; the client's by default.

        Raises:
            SeqserveError: see `seqserve_client.errors`; the first failure ends the call.
        """
        deadline = self.options.deadline(timeout_s)
        urgency = checked_choice("service_class", ServiceClass, service_class)
        choice = checked_choice("on_invalid", OnInvalid, on_invalid)
        sequence = single(sequences)
        if sequence is not None:
            checked_number("version", version)
            checked_number("top_k", top_k)
            kind = Kind(model, version, top_k, urgency, sequence.shape[1])
            answers = self._coalescer.classify(sequence, kind, deadline)
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
        answered = self._ask(pieces, deadline)
        answered |= self._ask(outdated(pieces, answered), deadline)
        return merged(pieces, answered)

    def advance(
        self,
        steps: Sequences,
        *,
        model: str,
        tokens: Sequence[bytes] | None = None,
        version: int = 0,
        top_k: int = 0,
        timeout_s: float | None = None,
    ) -> Progress:
        """Adds steps to live sequences and answers for all of their steps so far.

        One request, never cut. For forward-only models.

        Args:
            steps: The new steps of each sequence, as in `classify`.
            model: The model's name.
            tokens: For each sequence the token of its last `Progress`, `b""` where it is new;
                none at all where every one is.
            version: A positive integer; 0 for that of the tokens or else the newest.
            top_k: As in `classify`.
            timeout_s: As in `classify`.

        Raises:
            SeqserveError: see `seqserve_client.errors`.
        """
        deadline = self.options.deadline(timeout_s)
        request = live.request(steps, tokens, model=model, version=version, top_k=top_k)
        return live.progress(self._call(self._classifier.Advance, request, deadline), request)

    def live(self, *, model: str, version: int = 0, top_k: int = 0) -> LiveSequence:
        """A new live sequence, which keeps its own token."""
        return LiveSequence(self, model=model, version=version, top_k=top_k)

    def describe(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """The manifest of one version, by default of the newest that is served, and its state.

        Raises:
            SeqserveError: see `seqserve_client.errors`; `ModelNotFound` where it is unknown.
        """
        request = DescribeModelRequest(model_name=model, model_version=version)
        deadline = self.options.deadline(timeout_s)
        return ModelDescription.of(self._call(self._catalog.DescribeModel, request, deadline))

    def models(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """Every version the server knows, by name and then version.

        Raises:
            SeqserveError: see `seqserve_client.errors`.
        """
        deadline = self.options.deadline(timeout_s)
        response = self._call(self._catalog.ListModels, ListModelsRequest(), deadline)
        return statuses(response.models)

    def load_model(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelStatus:
        """Has a server serve a version whatever its policy; by default the newest it can find.

        As the other two for operators, never tried again, and of one replica alone. Comes back
        when the version is ready, which takes its time; the server goes on where the caller left.

        Raises:
            SeqserveError: see `seqserve_client.errors`; `CannotLoad` where it was refused.
        """
        request, deadline = administration.load(model, version), self.options.deadline(timeout_s)
        return ModelStatus.of(self._call(self._repository.LoadModel, request, deadline).status)

    def unload_model(
        self, model: str, version: int = 0, *, timeout_s: float | None = None
    ) -> ModelStatus:
        """Has a server take a version out of service; by default the newest that it serves.

        Calls that run on it finish.

        Raises:
            SeqserveError: see `seqserve_client.errors`.
        """
        request, deadline = administration.unload(model, version), self.options.deadline(timeout_s)
        return ModelStatus.of(self._call(self._repository.UnloadModel, request, deadline).status)

    def reload_repository(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """Has a server look at its repository again, and gives every version it knows then.

        Raises:
            SeqserveError: see `seqserve_client.errors`.
        """
        request, deadline = ReloadRepositoryRequest(), self.options.deadline(timeout_s)
        return statuses(self._call(self._repository.ReloadRepository, request, deadline).models)

    def ready(self, model: str | None = None, *, timeout_s: float | None = None) -> bool:
        """Whether the server, or one of its models, answers calls now; asked once, not retried.

        False where it cannot be reached or does not answer in time.

        Raises:
            SeqserveError: see `seqserve_client.errors`; where the question itself is refused.
        """
        request = HealthCheckRequest(service=model or "")
        deadline = self.options.deadline(timeout_s)
        try:
            response = self._call(self._health.Check, request, deadline)
        except (Unavailable, DeadlineExceeded, ModelNotFound):
            return False
        return bool(response.status == HealthCheckResponse.SERVING)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        deadline: Deadline,
        first_sequence: int = 0,
    ) -> Response:
        with typed_errors(self.options.address, first_sequence):
            return method(
                request, timeout=deadline.remaining_s(), metadata=self.options.call_metadata()
            )

    def _ask(self, pieces: Sequence[Piece], deadline: Deadline) -> Answered:
        """The response to each piece; `max_in_flight` are under way at a time."""
        if len(pieces) <= 1:  # a blocking call costs less than half of what a future does
            classify = self._classifier.Classify
            return {
                piece.first: self._call(classify, piece.request(), deadline, piece.first)
                for piece in pieces
            }
        answered: Answered = {}
        asked: dict[int, Future[ClassifyResponse]] = {}
        under_way: set[grpc.CallFuture[ClassifyResponse]] = set()
        window = self.options.max_in_flight
        # Threads of its own, since grpc hangs at closing where Ctrl-C, which reaches the main
        # thread alone, interrupts it as it starts a future.
        pool = ThreadPoolExecutor(window, "seqserve-client")
        try:
            for turn in range(len(pieces) + window):
                if turn >= window:
                    first = pieces[turn - window].first
                    answered[first] = _result(asked.pop(first))
                if turn < len(pieces):
                    piece = pieces[turn]
                    asked[piece.first] = pool.submit(self._answer, piece, deadline, under_way)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for call in tuple(under_way):
                call.cancel()  # type: ignore[no-untyped-call]
        return answered

    def _answer(
        self, piece: Piece, deadline: Deadline, under_way: set[grpc.CallFuture[ClassifyResponse]]
    ) -> ClassifyResponse:
        """The response to a piece, whose call is `under_way` meanwhile."""
        with typed_errors(self.options.address, piece.first):
            call = self._classifier.Classify.future(
                piece.request(),
                timeout=deadline.remaining_s(),
                metadata=self.options.call_metadata(),
            )
            under_way.add(call)
            try:
                return call.result()
            finally:
                under_way.remove(call)


def _result(answer: Future[Response]) -> Response:
    """What the future gives; looks up now and then, as a wait without end may miss a Ctrl-C."""
    while not answer.done():
        wait([answer], timeout=0.2)
    return answer.result()

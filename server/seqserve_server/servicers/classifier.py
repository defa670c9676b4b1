"""SequenceClassifier: what callers use. Whichever transport brings the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from seqserve.v1 import classifier_pb2, classifier_pb2_grpc
from seqserve.v1.classifier_pb2 import (
    AdvanceRequest,
    AdvanceResponse,
    ClassifyRequest,
    ClassifyResponse,
)
from seqserve_server.answers import Answers
from seqserve_server.engine import Advanced, Engine
from seqserve_server.errors import ServerError
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.scheduling.work import Leave
from seqserve_server.servicers import wire
from seqserve_server.servicers.crossing import Crossing
from seqserve_server.status import Context, answering, end, refusal
from seqserve_server.transports.decoding import undecodable
from seqserve_server.transports.native_listener import Method
from seqserve_server.validation import check_size

_SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["SequenceClassifier"].full_name

_MOMENT_S = 0.02
"""That no request came may be so since its caller left, which grpcio says in another word."""


class Classifier:
    """Classifies whole sequences and advances live ones, for callers of any thread.

    As the engine does it: `tell` is called once with the response, or with why there is none, and
    the call returns how to leave.

    Args:
        engine: Has the answers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def check(self, deadline: float) -> None:
        """Refuses a call whose request has not been read yet.

        Args:
            deadline: When the caller stops waiting, on the monotonic clock.

        Raises:
            QueueFull: no answer could be in time.
        """
        self._engine.check(deadline)

    def classify(
        self,
        request: ClassifyRequest,
        size: int,
        deadline: float,
        tell: Callable[[ClassifyResponse | Exception], None],
    ) -> Leave:
        """Whole sequences in, an answer for each, in order.

        Args:
            request: As it came.
            size: Its bytes.
            deadline: When the caller stops waiting, on the monotonic clock.
            tell: Told the response.

        Raises:
            ServerError: why there will be none.
        """
        engine = self._engine
        check_size(size, engine.limits, "sequences")
        model = engine.model(request.model_name, request.model_version)
        sequences = wire.decode(request.sequences, model, engine.limits, "sequences")

        def response(answers: Answers) -> ClassifyResponse:
            told = ClassifyResponse(
                model_name=model.name,
                model_version=model.version,
                model_digest=model.digest,
            )
            wire.fill(told.answers, answers)
            if answers.invalid:
                told.invalid.extend(wire.invalid_sequences(answers.invalid))
            return told

        return engine.classify(
            model,
            sequences,
            response,
            tell,
            top_k=request.top_k,
            deadline=deadline,
            service_class=wire.service_class(request.service_class),
            answer_rest=wire.answers_rest(request.on_invalid),
        )

    def advance(
        self,
        request: AdvanceRequest,
        size: int,
        deadline: float,
        tell: Callable[[AdvanceResponse | Exception], None],
    ) -> Leave:
        """New steps and tokens in; answers so far and the next tokens out. As `classify`."""
        engine = self._engine
        check_size(size, engine.limits, "steps")
        model, tokens = engine.model_of_tokens(
            request.model_name, request.model_version, request.tokens
        )
        steps = wire.decode(request.steps, model, engine.limits, "steps")

        def response(advanced: Advanced) -> AdvanceResponse:
            told = AdvanceResponse(
                model_name=model.name,
                model_version=model.version,
                model_digest=model.digest,
                tokens=advanced.tokens,
                steps=advanced.steps,
            )
            wire.fill(told.answers, advanced.answers)
            return told

        return engine.advance(
            model, steps, tokens, response, tell, top_k=request.top_k, deadline=deadline
        )


def classifier_methods(classifier: Classifier) -> list[Method]:
    """The same for the native transport."""
    return [
        Method(f"/{_SERVICE}/Classify", ClassifyRequest.FromString, classifier.classify),
        Method(f"/{_SERVICE}/Advance", AdvanceRequest.FromString, classifier.advance),
    ]


class SequenceClassifierServicer(classifier_pb2_grpc.SequenceClassifierServicer):
    """The same on an event loop, for grpcio.

    Args:
        classifier: Has the responses.
        counts: Told of every call that ends.
    """

    def __init__(self, classifier: Classifier, counts: Calls | None = None) -> None:
        self._classifier = classifier
        self.counts = counts
        self._crossing = Crossing()

    @answering
    async def Classify(  # noqa: N802
        self, request: ClassifyRequest, context: Context
    ) -> ClassifyResponse:
        """As `Classifier.classify`."""
        deadline = wire.deadline(context.time_remaining())
        return await self._crossing.told(
            lambda tell: self._classifier.classify(request, request.ByteSize(), deadline, tell)
        )

    @answering
    async def Advance(  # noqa: N802
        self, request: AdvanceRequest, context: Context
    ) -> AdvanceResponse:
        """As `Classifier.advance`."""
        deadline = wire.deadline(context.time_remaining())
        return await self._crossing.told(
            lambda tell: self._classifier.advance(request, request.ByteSize(), deadline, tell)
        )

    def check(self, context: Context) -> None:
        """As `Classifier.check`."""
        self._classifier.check(wire.deadline(context.time_remaining()))


def add_to_server(servicer: SequenceClassifierServicer, server: grpc.aio.Server) -> None:
    """Adds the service to a grpcio server, in place of what the generated code does.

    To grpcio its methods take streams of requests, for then a call begins before its request is
    read: where no answer could be in time, reading it would cost more than all the rest.

    Args:
        servicer: Answers.
        server: Has no such service yet.
    """
    handlers = {
        "Classify": _handler(servicer, servicer.Classify, ClassifyRequest, ClassifyResponse),
        "Advance": _handler(servicer, servicer.Advance, AdvanceRequest, AdvanceResponse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


def _handler(
    servicer: SequenceClassifierServicer,
    method: Callable[[Any, Context], Awaitable[Any]],
    request_type: type[Any],
    response_type: type[Any],
) -> grpc.RpcMethodHandler[Any, Any]:
    async def answer(requests: AsyncIterator[Any], context: Context) -> Any:  # noqa: ANN401
        try:
            servicer.check(context)
            request = await anext(requests, None)
            if request is None:
                await asyncio.sleep(_MOMENT_S)  # cancelled here, where its caller has left
                raise undecodable()
        except ServerError as error:
            name = method.__name__
            await end(context, refusal(error, name, context, servicer.counts))
            return None
        return await method(request, context)

    return grpc.stream_unary_rpc_method_handler(
        answer, request_type.FromString, response_type.SerializeToString
    )

"""SequenceClassifier: what callers use."""

from __future__ import annotations

from seqserve.v1 import classifier_pb2, classifier_pb2_grpc
from seqserve_server.engine import Engine
from seqserve_server.servicers import wire
from seqserve_server.status import Context, answering
from seqserve_server.validation import check_size


class SequenceClassifierServicer(classifier_pb2_grpc.SequenceClassifierServicer):
    """Classifies whole sequences and advances live ones.

    Args:
        engine: Has the answers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answering
    async def Classify(  # noqa: N802
        self, request: classifier_pb2.ClassifyRequest, context: Context
    ) -> classifier_pb2.ClassifyResponse:
        """Whole sequences in, an answer for each, in order."""
        check_size(request.ByteSize(), self._engine.limits, "sequences")
        model = self._engine.model(request.model_name, request.model_version)
        sequences = wire.decode(request.sequences, model, self._engine.limits, "sequences")
        answers = await self._engine.classify(
            model,
            sequences,
            top_k=request.top_k,
            deadline=wire.deadline(context),
            service_class=wire.service_class(request.service_class),
        )
        return classifier_pb2.ClassifyResponse(
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
            answers=wire.encode(answers),
        )

    @answering
    async def Advance(  # noqa: N802
        self, request: classifier_pb2.AdvanceRequest, context: Context
    ) -> classifier_pb2.AdvanceResponse:
        """New steps and tokens in; answers so far and the next tokens out."""
        check_size(request.ByteSize(), self._engine.limits, "steps")
        model, tokens = self._engine.model_of_tokens(
            request.model_name, request.model_version, request.tokens
        )
        steps = wire.decode(request.steps, model, self._engine.limits, "steps")
        advanced = await self._engine.advance(
            model, steps, tokens, top_k=request.top_k, deadline=wire.deadline(context)
        )
        return classifier_pb2.AdvanceResponse(
            model_name=model.name,
            model_version=model.version,
            model_digest=model.digest,
            answers=wire.encode(advanced.answers),
            tokens=advanced.tokens,
            steps=advanced.steps,
        )

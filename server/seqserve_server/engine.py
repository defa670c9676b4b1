"""Which model answers, whether it can, and what its outputs mean: the server without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np

from seqserve.graph import Outputs
from seqserve.ragged import RaggedBatch
from seqserve_server import validation
from seqserve_server.answers import Answers, answer
from seqserve_server.errors import Draining, InvalidRequest, ModelNotFound
from seqserve_server.scheduling.work import Scheduler, ServiceClass, Work, parts
from seqserve_server.served_model import ServedModel
from seqserve_server.tokens import InvalidToken, Token, TokenSealer
from seqserve_server.validation import RequestLimits

Find = Callable[[str, int], ServedModel]
"""The served version of a model, the newest for 0; raises ModelNotFound or ModelLoading."""


@dataclass(frozen=True)
class Advanced:
    """Live sequences after their new steps."""

    answers: Answers
    """To all steps of each so far."""
    tokens: list[bytes]
    """To come back with the next steps of each."""
    steps: list[int]
    """Steps of each so far."""


class Engine:
    """Answers for sequences, by the models that are served.

    Args:
        find: Finds the model.
        scheduler: Runs what was admitted.
        limits: What one request may hold.
        sealer: Seals the state of live sequences.
    """

    def __init__(
        self, find: Find, scheduler: Scheduler, limits: RequestLimits, sealer: TokenSealer
    ) -> None:
        self.limits = limits
        self._find = find
        self._scheduler = scheduler
        self._sealer = sealer
        self._draining = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuses every call from now on; those that run go on."""
        self._draining = True

    async def until_idle(self) -> None:
        """Waits until no call runs."""
        await self._idle.wait()

    def model(self, name: str, version: int) -> ServedModel:
        """The model to answer; the newest that is served where `version` is 0.

        Raises:
            Draining: no more calls are taken.
            InvalidRequest: the name cannot be one.
            ModelNotFound: it is not served.
            ModelLoading: not yet.
        """
        if self._draining:
            raise Draining
        validation.check_model_name(name)
        return self._find(name, version)

    def model_of_tokens(
        self, name: str, version: int, tokens: Sequence[bytes]
    ) -> tuple[ServedModel, list[Token | None]]:
        """The model to advance live sequences with, and their tokens opened.

        Args:
            name: The model's name.
            version: 0 for that of the tokens or, where there are none, the newest.
            tokens: One for each sequence, empty where it is new.

        Raises:
            InvalidRequest: a token is not good, or not of this model, or the model cannot
                advance; and as `model`.
        """
        newest_or_asked = self.model(name, version)
        validation.check_sequence_count(len(tokens), self.limits, "tokens")
        opened = [self._open(token, index) for index, token in enumerate(tokens)]
        given = next((token for token in opened if token), None)
        model = newest_or_asked
        if given and not version:
            with suppress(ModelNotFound):  # the check below says what is wrong with the token
                model = self._find(name, given.version)
        if not model.forward_only:
            raise InvalidRequest(
                f"{model} is bidirectional: it needs every sequence whole, so it cannot be "
                "advanced in pieces; call Classify",
                field="model_name",
            )
        for index, token in enumerate(opened):
            if token and token.digest != model.digest:
                raise InvalidRequest(
                    f"the token of sequence {index} is of another model or version than {model}; "
                    "begin the sequence again, or name the version it began with",
                    field=f"tokens[{index}]",
                )
        return model, opened

    async def classify(
        self,
        model: ServedModel,
        sequences: RaggedBatch,
        *,
        top_k: int,
        deadline: float,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> Answers:
        """An answer for each sequence, in order.

        Args:
            model: Who answers.
            sequences: Whole sequences.
            top_k: How many classes to name; 0 for the whole distribution.
            deadline: When the caller stops waiting, on the monotonic clock.
            service_class: Whether it goes before other calls or behind them.

        Raises:
            InvalidRequest, QueueFull, DeadlineSpent, Draining.
        """
        self._check(model, sequences, top_k, "sequences")
        outputs = await self._run(
            [
                Work(model.runner, part, None, deadline, service_class)
                for part in parts(sequences, model.runner.work_steps)
            ]
        )
        return _answers(model, outputs, top_k)

    async def advance(
        self,
        model: ServedModel,
        steps: RaggedBatch,
        tokens: Sequence[Token | None],
        *,
        top_k: int,
        deadline: float,
    ) -> Advanced:
        """The answer of each live sequence after its new steps, and its next token.

        Args:
            model: Who answers, of `model_of_tokens`.
            steps: The new steps of each sequence.
            tokens: One for each sequence, None where it is new; or none at all.
            top_k: As in `classify`.
            deadline: As in `classify`.

        Raises:
            InvalidRequest, QueueFull, DeadlineSpent, Draining.
        """
        tokens = tokens or [None] * len(steps)
        if len(tokens) != len(steps):
            raise InvalidRequest(
                f"{len(tokens)} tokens for {len(steps)} sequences; one for each is needed, "
                "empty where the sequence is new, or none at all",
                field="tokens",
            )
        self._check(model, steps, top_k, "steps")
        states = iter([token.state if token else None for token in tokens])
        outputs = await self._run(
            [
                Work(
                    model.runner,
                    part,
                    model.state_codec.state([*islice(states, len(part))]),
                    deadline,
                )
                for part in parts(steps, model.runner.work_steps)
            ]
        )
        before = [token.steps if token else 0 for token in tokens]
        total = [old + new for old, new in zip(before, steps.lengths.tolist(), strict=True)]
        rows = [row for part in outputs for row in model.state_codec.rows(part.state)]
        sealed = [
            self._sealer.seal(Token(model.digest, model.version, count, state))
            for count, state in zip(total, rows, strict=True)
        ]
        return Advanced(_answers(model, outputs, top_k), sealed, total)

    def _check(self, model: ServedModel, batch: RaggedBatch, top_k: int, field: str) -> None:
        validation.check_batch(batch, model, self.limits, field)
        validation.check_top_k(top_k, model)

    def _open(self, token: bytes, index: int) -> Token | None:
        if not token:
            return None
        try:
            return self._sealer.open(token)
        except InvalidToken as error:
            raise InvalidRequest(
                f"the token of sequence {index} {error}", field=f"tokens[{index}]"
            ) from error

    async def _run(self, works: Sequence[Work]) -> list[Outputs]:
        """The outputs of every part, or of none: where one fails, the others are dropped."""
        self._calls += 1
        self._idle.clear()
        try:
            if len(works) == 1:  # as nearly always
                return [await self._scheduler.submit(works[0])]
            return await self._run_parts(works)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _run_parts(self, works: Sequence[Work]) -> list[Outputs]:
        futures: list[asyncio.Future[Outputs]] = []
        try:
            # A loop, not a comprehension: what was submitted before QueueFull is to be dropped.
            for work in works:
                futures.append(self._scheduler.submit(work))  # noqa: PERF401
            return [await future for future in futures]
        finally:
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # or asyncio complains that nobody looked


def _answers(model: ServedModel, outputs: list[Outputs], top_k: int) -> Answers:
    if len(outputs) == 1:
        logits, probabilities = outputs[0].logits, outputs[0].probabilities
    else:
        logits = np.concatenate([part.logits for part in outputs])
        probabilities = np.concatenate([part.probabilities for part in outputs])
    return answer(logits, probabilities, model.labels, top_k)

"""Which model answers, whether it can, and what its outputs mean: the server without gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from seqserve.graph import Outputs
from seqserve.ragged import RaggedBatch
from seqserve_server import validation
from seqserve_server.answers import Answers, answer, with_gaps
from seqserve_server.errors import Draining, InvalidRequest, ModelNotFound
from seqserve_server.models.served_model import ServedModel
from seqserve_server.scheduling.work import (
    Leave,
    Outcome,
    Scheduler,
    ServiceClass,
    Work,
    parts,
    stay,
)
from seqserve_server.security.tokens import InvalidToken, Token, TokenSealer
from seqserve_server.validation import InvalidSequence, RequestLimits

_T = TypeVar("_T")

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
    """Answers for sequences, by the models that are served. Any thread may ask.

    What is asked for is told to a callback: `tell` is called once, on another thread perhaps and
    before the call returns perhaps, with what was made of the answer or with why there is none:
    DeadlineSpent, Draining, or what the runner or the making raised. The call returns how to leave:
    who has left is told no more, but for what is on its way at that moment.

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

    def drain(self) -> None:
        """Refuses every call from now on; those that run go on."""
        self._draining = True

    def check(self, deadline: float) -> None:
        """Refuses a call whose request has not been read yet, where no answer could be in time.

        Args:
            deadline: When the caller stops waiting, on the monotonic clock.

        Raises:
            QueueFull: it could not.
        """
        if not self._draining:  # else that is what the caller should hear
            self._scheduler.check(deadline)

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
        try:
            return self._find(name, version)
        except ModelNotFound:
            validation.check_model_name(name)
            raise

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
        opened, invalid = self._opened(tokens)
        if invalid:
            raise validation.refusal(invalid)
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
        invalid = [
            InvalidSequence(
                index,
                "tokens",
                f"the token of sequence {index} is of another model or version than {model}; "
                "begin the sequence again, or name the version it began with",
            )
            for index, token in enumerate(opened)
            if token and token.digest != model.digest
        ]
        if invalid:
            raise validation.refusal(invalid)
        return model, opened

    def classify(
        self,
        model: ServedModel,
        sequences: RaggedBatch,
        make: Callable[[Answers], _T],
        tell: Callable[[_T | Exception], None],
        *,
        top_k: int,
        deadline: float,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        answer_rest: bool = False,
    ) -> Leave:
        """An answer for each sequence, in order.

        Args:
            model: Who answers.
            sequences: Whole sequences.
            make: Makes of the answers what is to be told.
            tell: Told what was made, or why there are no answers.
            top_k: How many classes to name; 0 for the whole distribution.
            deadline: When the caller stops waiting, on the monotonic clock.
            service_class: Whether it goes before other calls or behind them.
            answer_rest: Whether sequences that the model cannot take leave the others their
                answers; the request is refused otherwise.

        Raises:
            InvalidRequest, QueueFull, DeadlineSpent, Draining.
        """
        invalid = self._check(model, sequences, top_k, "sequences")
        if invalid:
            if not answer_rest:
                raise validation.refusal(invalid)
            invalid = list(invalid)  # each is described once
            refused = {each.index for each in invalid}
            answered = [index for index in range(len(sequences)) if index not in refused]
            if not answered:
                none = np.empty((0, len(model.labels)), np.float32)
                nobody = answer(none, none, model.labels, top_k)
                tell(make(with_gaps(nobody, answered, invalid)))
                return stay
            sequences = sequences.take(answered)
            make_whole = make

            def make(answers: Answers) -> _T:
                return make_whole(with_gaps(answers, answered, invalid))

        works = [
            Work(model.runner, part, None, deadline, service_class)
            for part in parts(sequences, model.runner.work_steps)
        ]
        return self._run(works, lambda outputs: make(_answers(model, outputs, top_k)), tell)

    def advance(
        self,
        model: ServedModel,
        steps: RaggedBatch,
        tokens: Sequence[Token | None],
        make: Callable[[Advanced], _T],
        tell: Callable[[_T | Exception], None],
        *,
        top_k: int,
        deadline: float,
    ) -> Leave:
        """The answer of each live sequence after its new steps, and its next token.

        Args:
            model: Who answers, of `model_of_tokens`.
            steps: The new steps of each sequence.
            tokens: One for each sequence, None where it is new; or none at all.
            make: Makes of answers and tokens what is to be told.
            tell: As in `classify`.
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
        if invalid := self._check(model, steps, top_k, "steps"):
            raise validation.refusal(invalid)
        states = iter([token.state if token else None for token in tokens])
        works = [
            Work(
                model.runner, part, model.state_codec.state([*islice(states, len(part))]), deadline
            )
            for part in parts(steps, model.runner.work_steps)
        ]
        before = [token.steps if token else 0 for token in tokens]
        total = [old + new for old, new in zip(before, steps.lengths.tolist(), strict=True)]

        def finish(outputs: list[Outputs]) -> _T:
            rows = [row for part in outputs for row in model.state_codec.rows(part.state)]
            sealed = [
                self._sealer.seal(Token(model.digest, model.version, count, state))
                for count, state in zip(total, rows, strict=True)
            ]
            return make(Advanced(_answers(model, outputs, top_k), sealed, total))

        return self._run(works, finish, tell)

    def _check(
        self, model: ServedModel, batch: RaggedBatch, top_k: int, field: str
    ) -> Sequence[InvalidSequence]:
        """The sequences that the model cannot take.

        Raises:
            InvalidRequest: something is wrong with the request as a whole.
        """
        validation.check_steps(len(batch.values), self.limits, field)
        validation.check_top_k(top_k, model)
        return validation.invalid_sequences(batch, model, field)

    def _opened(self, tokens: Sequence[bytes]) -> tuple[list[Token | None], list[InvalidSequence]]:
        """The tokens, None where the sequence is new, and those that are not good."""
        opened: list[Token | None] = []
        invalid: list[InvalidSequence] = []
        for index, token in enumerate(tokens):
            try:
                opened.append(self._sealer.open(token) if token else None)
            except InvalidToken as error:
                text = f"the token of sequence {index} {error}"
                invalid.append(InvalidSequence(index, "tokens", text))
        return opened, invalid

    def _run(
        self,
        works: Sequence[Work],
        finish: Callable[[list[Outputs]], _T],
        tell: Callable[[_T | Exception], None],
    ) -> Leave:
        if len(works) == 1:  # as nearly always
            return self._scheduler.submit(
                works[0],
                lambda outcome: tell(
                    outcome if isinstance(outcome, Exception) else _finished(finish, [outcome])
                ),
            )
        request = _Parts(len(works), finish, tell)
        request.begin(self._scheduler, works)
        return request.leave


def _finished(finish: Callable[[list[Outputs]], _T], outputs: list[Outputs]) -> _T | Exception:
    try:
        return finish(outputs)
    except Exception as error:  # whatever it is, the caller is told
        return error


class _Parts(Generic[_T]):
    """The parts of a request under way: told the outputs of every part, or of none.

    Args:
        parts: How many there are.
        finish: Makes the answer of the outputs.
        tell: Told the answer, or why there is none.
    """

    def __init__(
        self,
        parts: int,
        finish: Callable[[list[Outputs]], _T],
        tell: Callable[[_T | Exception], None],
    ) -> None:
        self._finish = finish
        self._tell = tell
        self._lock = threading.Lock()  # lanes may end parts at the same time; guards what follows
        self._outputs: list[Outputs | None] = [None] * parts
        self._missing = parts
        self._leave_all: Leave = stay
        self._over = False

    def begin(self, scheduler: Scheduler, works: Sequence[Work]) -> None:
        """Submits the parts.

        Raises:
            What `Scheduler.submit_all` raises.
        """
        tells = [partial(self._part, index) for index in range(len(works))]
        leave = scheduler.submit_all(works, tells)
        with self._lock:
            if not self._over:
                self._leave_all = leave
                return
        leave()  # a part has failed already

    def leave(self) -> None:
        """Drops it: nobody waits for it any more."""
        self._end(None)

    def _part(self, index: int, outcome: Outcome) -> None:
        """What became of a part."""
        if isinstance(outcome, Exception):
            self._end(outcome)
            return
        with self._lock:
            self._outputs[index] = outcome
            self._missing -= 1
            if self._missing:
                return
            self._leave_all = stay
        outputs = [output for output in self._outputs if output is not None]
        self._end(_finished(self._finish, outputs))

    def _end(self, answer: _T | Exception | None) -> None:
        """Ends it with what is to be told, if nothing else has."""
        with self._lock:
            if self._over:
                return
            self._over = True
            leave, self._leave_all = self._leave_all, stay
        leave()
        tell = self._tell
        del self._tell  # it may hold the way to leave, and must not wait for the garbage collector
        if answer is not None:
            tell(answer)


def _answers(model: ServedModel, outputs: list[Outputs], top_k: int) -> Answers:
    if len(outputs) == 1:
        logits, probabilities = outputs[0].logits, outputs[0].probabilities
    else:
        logits = np.concatenate([part.logits for part in outputs])
        probabilities = np.concatenate([part.probabilities for part in outputs])
    return answer(logits, probabilities, model.labels, top_k)

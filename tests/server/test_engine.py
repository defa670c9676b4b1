"""The parts of a request: told once, whatever becomes of each; with a scheduler moved by hand."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from seqserve import artifact
from seqserve.graph import Outputs
from seqserve.ragged import RaggedBatch
from seqserve_server.answers import Answers
from seqserve_server.engine import Engine
from seqserve_server.errors import DeadlineSpent, Draining, QueueFull
from seqserve_server.models.loading import load
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling.work import MAX_ROWS, Leave, Outcome, Work
from seqserve_server.security.tokens import TokenSealer, random_key
from seqserve_server.validation import RequestLimits

TIMEOUT_S = 60.0
SEQUENCES = 3 * MAX_ROWS  # of one step: three parts


@dataclass
class ByHand:
    """A scheduler that keeps what is submitted until the test says what becomes of it."""

    room: int = 1 << 20
    """Works that it takes."""
    parts: list[tuple[Work, Callable[[Outcome], None]]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    at_once: dict[int, Outcome] = field(default_factory=dict)
    """Told of a work while it is being submitted, as a quick lane does."""

    def start(self) -> None: ...

    def check(self, deadline: float) -> None:
        raise NotImplementedError

    def submit(self, work: Work, tell: Callable[[Outcome], None]) -> Leave:
        return self.submit_all((work,), (tell,))

    def submit_all(
        self, works: Sequence[Work], tells: Sequence[Callable[[Outcome], None]]
    ) -> Leave:
        first = len(self.parts)
        if first + len(works) > self.room:
            raise QueueFull("no more", retry_after_s=1.0)
        for work, tell in zip(works, tells, strict=True):
            self.parts.append((work, tell))
            if len(self.parts) - 1 in self.at_once:
                tell(self.at_once[len(self.parts) - 1])
        return lambda: self.left.extend(range(first, first + len(works)))

    def wait_until_idle(self, timeout_s: float) -> bool:
        raise NotImplementedError

    def close(self) -> None: ...

    def end(self, index: int) -> None:
        """Says that a part has run."""
        work, tell = self.parts[index]
        tell(outputs(work))


def outputs(work: Work) -> Outputs:
    """Logits that show which sequence they are of."""
    logits = np.repeat(work.rows.values[:, :1], work.runner.classes, axis=1)
    return Outputs(logits, logits, {})


@pytest.fixture(scope="module")
def model(models: Path) -> ServedModel:
    folder = artifact.version_path(models, "gru", 1)
    return load(folder, opener(ExecutionProvider.CPU))[0]


@pytest.fixture
def scheduler() -> ByHand:
    return ByHand()


@pytest.fixture
def engine(model: ServedModel, scheduler: ByHand) -> Engine:
    limits = RequestLimits(max_sequences=10_000, max_steps=100_000, max_bytes=1 << 20)
    return Engine(lambda *_: model, scheduler, limits, TokenSealer(random_key(), 60.0))


Told = list[Answers | Exception]


def ask(engine: Engine, model: ServedModel, told: Told) -> Leave:
    """Asks for numbered sequences of one step each, which are three parts."""
    values = np.zeros((SEQUENCES, 3), np.float32)
    values[:, 0] = np.arange(SEQUENCES)
    sequences = RaggedBatch(values, np.ones(SEQUENCES, np.int64))
    return engine.classify(model, sequences, same, told.append, top_k=0, deadline=float("inf"))


def same(answers: Answers) -> Answers:
    return answers


def in_order(told: Told) -> bool:
    [answers] = told
    assert isinstance(answers, Answers)
    return bool((answers.logits[:, 0] == np.arange(SEQUENCES)).all())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_answers_are_in_order_whichever_part_ends_first(
    engine: Engine, model: ServedModel, scheduler: ByHand, order: tuple[int, ...]
) -> None:
    told: Told = []
    ask(engine, model, told)
    for index in order:
        assert not told
        scheduler.end(index)

    assert in_order(told)
    assert not scheduler.left


@pytest.mark.parametrize("failing", range(3))
def test_a_part_that_fails_fails_the_request_and_drops_the_others(
    engine: Engine, model: ServedModel, scheduler: ByHand, failing: int
) -> None:
    told: Told = []
    ask(engine, model, told)
    scheduler.parts[failing][1](DeadlineSpent())
    for index in range(3):  # as those that were on their way
        if index != failing:
            scheduler.end(index)

    assert [type(each) for each in told] == [DeadlineSpent]
    assert {0, 1, 2} - {failing} <= set(scheduler.left)


@pytest.mark.parametrize("room", range(3))
def test_a_request_that_is_not_taken_whole_is_not_taken_at_all(
    engine: Engine, model: ServedModel, scheduler: ByHand, room: int
) -> None:
    scheduler.room = room
    told: Told = []
    with pytest.raises(QueueFull):
        ask(engine, model, told)

    assert not told
    assert not scheduler.parts


def test_a_part_that_fails_while_others_are_submitted_is_told_once(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    scheduler.at_once[0] = DeadlineSpent()
    told: Told = []
    ask(engine, model, told)

    assert [type(each) for each in told] == [DeadlineSpent]
    assert {1, 2} <= set(scheduler.left)


def test_parts_that_end_while_others_are_submitted_are_not_lost(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    told: Told = []
    for index in range(3):
        rows = RaggedBatch(np.full((MAX_ROWS, 3), 0, np.float32), np.ones(MAX_ROWS, np.int64))
        rows.values[:, 0] = np.arange(index * MAX_ROWS, (index + 1) * MAX_ROWS)
        scheduler.at_once[index] = outputs(Work(model.runner, rows, None, 0.0))
    ask(engine, model, told)

    assert in_order(told)


def test_who_has_left_is_told_nothing_and_its_parts_are_dropped(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    told: Told = []
    leave = ask(engine, model, told)
    scheduler.end(1)
    leave()
    leave()
    scheduler.end(0)
    scheduler.end(2)

    assert not told
    assert {0, 2} <= set(scheduler.left)


def test_who_leaves_after_the_answer_changes_nothing(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    told: Told = []
    leave = ask(engine, model, told)
    for index in range(3):
        scheduler.end(index)
    leave()

    assert in_order(told)
    assert not scheduler.left


def test_parts_that_end_on_several_threads_at_once_are_told_once(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    for _ in range(300):
        scheduler.parts.clear()
        told: Told = []
        leave = ask(engine, model, told)
        together = threading.Barrier(5)
        ends: list[Callable[[], None]] = [
            *(lambda index=index: scheduler.end(index) for index in range(3)),
            lambda: scheduler.parts[1][1](DeadlineSpent()),
            leave,
        ]

        def end(how: Callable[[], None], together: threading.Barrier = together) -> None:
            together.wait(TIMEOUT_S)
            how()

        threads = [threading.Thread(target=end, args=(how,)) for how in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)

        assert len(told) <= 1


def test_what_cannot_be_made_an_answer_is_told_as_the_error_it_is(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    told: Told = []
    ask(engine, model, told)
    scheduler.end(0)
    scheduler.end(1)
    scheduler.parts[2][1](Outputs(np.zeros((0, 7), "f4"), np.zeros((0, 7), "f4"), {}))

    assert [type(each) for each in told] == [ValueError]


def test_where_an_answer_cannot_be_told_as_it_should_be_the_reason_is(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    def fail(_: Answers) -> Answers:
        raise OverflowError

    told: Told = []
    sequences = RaggedBatch(np.zeros((1, 3), np.float32), np.ones(1, np.int64))
    engine.classify(model, sequences, fail, told.append, top_k=0, deadline=float("inf"))
    scheduler.end(0)

    assert [type(each) for each in told] == [OverflowError]


def test_a_request_that_is_over_does_not_wait_for_the_garbage_collector(
    engine: Engine, model: ServedModel, scheduler: ByHand
) -> None:
    class Caller:
        leave: Leave

        def tell(self, answers: Answers | Exception) -> None: ...

    gc.collect()
    gc.disable()
    try:
        for how in ("answered", "left"):
            caller = Caller()
            sequences = RaggedBatch(np.zeros((1, 3), np.float32), np.ones(1, np.int64))
            scheduler.parts.clear()
            caller.leave = engine.classify(
                model, sequences, same, caller.tell, top_k=0, deadline=float("inf")
            )
            if how == "left":
                caller.leave()
            else:
                scheduler.end(0)
            scheduler.parts.clear()
            watched = weakref.ref(caller)
            del caller
            assert watched() is None, how
    finally:
        gc.enable()


def test_nothing_is_taken_while_the_server_drains(engine: Engine) -> None:
    engine.drain()
    with pytest.raises(Draining):
        engine.model("gru", 0)

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seqserve_server.errors import QueueFull
from seqserve_server.scheduling.backlog import MAX_RETRY_S, MIN_RETRY_S, Backlog


@dataclass(frozen=True, eq=False)
class Piece:
    steps: int = 1
    deadline: float = math.inf


def test_first_come_is_first_served() -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=10, lanes=1)
    pieces = [Piece(), Piece(), Piece()]
    for piece in pieces:
        backlog.add(piece)

    assert [backlog.take(0.0)[0] for _ in range(4)] == [*pieces, None]


def test_work_is_expired_from_its_deadline_on() -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=10, lanes=1)
    late, later, good = Piece(deadline=1.0), Piece(deadline=2.0), Piece(deadline=2.1)
    for piece in (late, later, good):
        backlog.add(piece)

    assert backlog.take(2.0) == (good, [late, later])


def test_dropped_work_makes_room_at_once() -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=5, lanes=1)
    gone, next_ = Piece(steps=5), Piece(steps=5)
    backlog.add(gone)
    backlog.drop(gone)
    backlog.add(next_)

    assert backlog.take(0.0) == (next_, [])
    backlog.drop(next_)  # it is running: nothing is left to drop
    assert backlog.steps == 0


def test_the_wait_told_is_half_of_what_waits_at_the_pace_seen() -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=100, lanes=2)
    backlog.ran(steps=10, seconds=1.0)
    backlog.add(Piece(steps=100))

    with pytest.raises(QueueFull) as raised:
        backlog.add(Piece())

    assert raised.value.retry_after_s == pytest.approx(100 / 2 * 0.1 / 2)


def test_the_pace_follows_the_newest_runs() -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=100, lanes=1)
    backlog.ran(steps=1, seconds=1.0)
    for _ in range(100):
        backlog.ran(steps=10, seconds=1.0)
    backlog.add(Piece(steps=100))

    with pytest.raises(QueueFull) as raised:
        backlog.add(Piece())

    assert raised.value.retry_after_s == pytest.approx(5.0, rel=0.01)


@given(st.floats(0, 1e9), st.integers(1, 10**6))
def test_the_wait_told_is_never_absurd(seconds: float, steps: int) -> None:
    backlog: Backlog[Piece] = Backlog(max_steps=steps, lanes=1)
    backlog.ran(steps=1, seconds=seconds)
    backlog.add(Piece(steps=steps))

    with pytest.raises(QueueFull) as raised:
        backlog.add(Piece())

    assert MIN_RETRY_S <= raised.value.retry_after_s <= MAX_RETRY_S


class BacklogMachine(RuleBasedStateMachine):
    """Whatever happens: nothing is lost, nothing comes twice, the bound holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waiting: list[Piece] = []

    @initialize(max_steps=st.integers(1, 30))
    def begin(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.backlog: Backlog[Piece] = Backlog(max_steps, lanes=1)

    @rule(steps=st.integers(1, 12), patience=st.integers(0, 5))
    def add(self, steps: int, patience: int) -> None:
        piece = Piece(steps, self.now + patience)
        room = self.max_steps - sum(each.steps for each in self.waiting)
        if steps <= room:
            self.backlog.add(piece)
            self.waiting.append(piece)
        else:
            with pytest.raises(QueueFull):
                self.backlog.add(piece)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.waiting:
            piece = data.draw(st.sampled_from(self.waiting))
            self.backlog.drop(piece)
            self.backlog.drop(piece)
            self.waiting.remove(piece)

    @rule(seconds=st.integers(0, 3))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        alive = [piece for piece in self.waiting if piece.deadline > self.now]
        first = alive[0] if alive else None
        end = self.waiting.index(first) if first else len(self.waiting)

        assert self.backlog.take(self.now) == (first, self.waiting[:end])

        del self.waiting[: end + 1]

    @rule()
    def clear(self) -> None:
        assert self.backlog.clear() == self.waiting
        self.waiting = []

    @invariant()
    def the_bound_holds(self) -> None:
        if hasattr(self, "backlog"):
            assert self.backlog.steps == sum(piece.steps for piece in self.waiting)
            assert self.backlog.steps <= self.max_steps


TestBacklog = BacklogMachine.TestCase

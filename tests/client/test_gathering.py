"""Which calls leave together, with a clock moved by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve_client.deadline import Deadline
from seqserve_client.errors import (
    InvalidRequest,
    InvalidSequences,
    Overloaded,
    SeqserveError,
    ServerFault,
    Violation,
)
from seqserve_client.gathering import Gathering, Gatherings, Kind, Limits
from seqserve_client.joined import Call, limits, message, parted
from seqserve_client.options import Options
from seqserve_client.service_class import ServiceClass

KIND = Kind("model", 0, 0, ServiceClass.INTERACTIVE, 1)
LIMITS = Limits(sequences=4, steps=100, size=1000, delay_s=1.0)
FEW = 4
"""Calls that leave at once; the next waits."""


@dataclass(eq=False)
class One:
    """A call, as far as the policy looks at it."""

    steps: int = 1
    size: int = 9
    deadline: float = math.inf
    fates: list[object] = field(default_factory=list)
    bad: bool = False


def busy(limits: Limits = LIMITS, now: float = 0) -> tuple[Gathering[One], list[One]]:
    """A gathering with so many calls under way, each by itself, that the next waits."""
    gathering: Gathering[One] = Gathering(KIND, limits)
    calls = [One() for _ in range(FEW)]
    for call in calls:
        assert gathering.arrive(call, now) == [call]
    return gathering, calls


def test_a_call_leaves_at_once_while_few_are_under_way() -> None:
    gathering, calls = busy()
    assert gathering.arrive(One(), 0) == []
    assert (gathering.requests, gathering.calls) == (len(calls), len(calls))


def test_those_that_wait_leave_when_few_are_left_under_way() -> None:
    gathering, (first, *_) = busy()
    waiting = [One(), One()]
    for call in waiting:
        assert gathering.arrive(call, 0) == []
    assert gathering.returned([first], 0.1) == waiting
    assert gathering.calls == FEW + 1


def test_they_wait_on_while_a_joined_request_is_under_way() -> None:
    gathering, under_way = busy()
    joined = [One() for _ in range(LIMITS.sequences)]
    assert [gathering.arrive(call, 0) for call in joined][-1] == joined
    late = One()
    assert gathering.arrive(late, 0) == []
    for call in under_way:
        assert gathering.returned([call], 0.1) == []
    assert gathering.returned(joined, 0.2) == [late]
    assert (gathering.requests, gathering.calls) == (1, 1)


def test_as_many_as_a_request_may_hold_leave_at_once() -> None:
    gathering, _ = busy()
    calls = [One() for _ in range(LIMITS.sequences)]
    left = [gathering.arrive(call, 0) for call in calls]
    assert left == [[], [], [], calls]


@pytest.mark.parametrize(
    ("waits", "arrives"),
    [(One(steps=60), One(steps=41)), (One(size=600), One(size=401))],
    ids=["steps", "bytes"],
)
def test_those_that_wait_leave_before_one_that_does_not_fit_with_them(
    waits: One, arrives: One
) -> None:
    gathering, under_way = busy()
    assert gathering.arrive(waits, 0) == []
    assert gathering.arrive(arrives, 0.5) == [waits]
    assert gathering.first(arrives)
    assert gathering.due() == 0.5 + LIMITS.delay_s * (len(under_way) + 1)


@pytest.mark.parametrize(
    ("limits", "call"),
    [
        (replace(LIMITS, sequences=1), One()),
        (LIMITS, One(steps=100)),
        (LIMITS, One(size=1000)),
        (LIMITS, One(deadline=10)),
    ],
    ids=["joining is off", "as long as a request", "as big as one", "little time"],
)
def test_a_call_that_cannot_share_a_request_or_has_no_time_to_leaves_at_once(
    limits: Limits, call: One
) -> None:
    gathering, _ = busy(limits)
    assert gathering.arrive(call, 0) == [call]


def test_the_delay_grows_with_the_requests_under_way_and_ends_all_the_same() -> None:
    gathering, under_way = busy()
    waiting = One()
    gathering.arrive(waiting, 5)
    due = 5 + LIMITS.delay_s * len(under_way)
    assert gathering.due() == due
    assert gathering.overdue(due - 0.001) == []
    assert gathering.overdue(due) == [waiting]
    assert gathering.due() == math.inf


def test_one_whose_time_is_up_does_not_leave_and_one_that_has_gone_does_not_either() -> None:
    gathering, under_way = busy()
    expired, gone, stays = One(deadline=20), One(), One()
    for call in (expired, gone, stays):
        assert gathering.arrive(call, 0) == []
    gathering.withdraw(gone)
    assert gathering.returned(under_way[:1], 20) == [stays]


def test_one_that_has_gone_makes_room() -> None:
    gathering, _ = busy()
    gone, stays = One(steps=60, size=600), One()
    gathering.arrive(gone, 0)
    gathering.withdraw(gone)
    gathering.arrive(stays, 0)
    assert gathering.arrive(One(steps=60, size=600), 0) == []
    assert gathering.first(stays)


def test_a_kind_is_forgotten_when_nothing_of_it_is_under_way() -> None:
    gatherings: Gatherings[One] = Gatherings(lambda _: LIMITS)
    other = KIND._replace(service_class=ServiceClass.BULK)
    call = One()
    gatherings.of(KIND).arrive(call, 0)
    gatherings.of(other).arrive(call, 0)
    assert gatherings.of(KIND) is not gatherings.of(other)
    gatherings.returned(gatherings.of(KIND), [call], 0)
    assert len(gatherings) == 1
    gatherings.returned(gatherings.of(other), [call], 0)
    assert len(gatherings) == 0


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(40, 2000),
    st.sampled_from(ServiceClass),
)
def test_a_joined_message_keeps_to_the_limit_of_bytes(
    lengths: list[int], most: int, service_class: ServiceClass
) -> None:
    options = Options(max_message_bytes=most, coalesce_sequences=1000)
    kind = Kind("m" * 20, 2**64 - 1, 2**32 - 1, service_class, 2)
    gathering: Gathering[Call] = Gathering(kind, limits(options, kind))
    left = [
        gathering.arrive(Call(np.zeros((steps, 2), np.float32), Deadline(math.inf)), 0)
        for steps in lengths
    ]
    for calls in (*left, gathering.depart(0)):
        if len(calls) > 1:
            assert message(kind, calls).ByteSize() <= most


def test_a_message_holds_the_sequences_as_they_were_when_the_call_was_made() -> None:
    sequence = np.array([[1.0, 2.0], [3.0, 4.0]], ">f8").T  # neither float32 nor in rows
    single = sequence.astype(np.float32)
    call = Call(single, Deadline(math.inf))
    single[:] = 0
    other = Call(np.array([[5.0, 6.0]], np.float32), Deadline(math.inf))
    request = message(KIND, [call, other])
    assert isinstance(request, ClassifyRequest)
    assert list(request.sequences.lengths) == [2, 1]
    assert np.frombuffer(request.sequences.values, "<f4").tolist() == [1, 3, 2, 4, 5, 6]


def refusal(*indices: int) -> InvalidSequences:
    return InvalidSequences(
        "for people",
        [Violation(f"sequence {i} has NaN", "sequences.values", i) for i in indices],
    )


def calls_of(count: int) -> list[Call]:
    return [Call(np.zeros((1, 1), np.float32), Deadline(math.inf)) for _ in range(count)]


def test_a_refusal_is_told_to_whom_it_names_as_if_there_were_no_other() -> None:
    calls = calls_of(4)
    parting = parted(calls, refusal(1, 3), again=True)
    assert [call for call, _ in parting.refused] == [calls[1], calls[3]]
    for _, error in parting.refused:
        assert isinstance(error, InvalidSequences)
        assert str(error) == "sequence 0 has NaN"
        assert error.violations == (Violation("sequence 0 has NaN", "sequences.values", 0),)
    assert parting.again == [calls[0], calls[2]]
    assert parting.alone == []


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("too many for this server"), ServerFault("a defect"), ValueError("any")],
    ids=["request", "fault", "unforeseen"],
)
def test_what_may_be_the_fault_of_the_company_is_asked_for_alone(error: Exception) -> None:
    calls = calls_of(3)
    parting = parted(calls, error, again=True)
    assert (parting.refused, parting.again, parting.alone) == ([], [], calls)


def test_what_concerns_everyone_is_told_to_each_as_an_error_of_its_own() -> None:
    calls, cause = calls_of(3), RuntimeError("the cause")
    failure = Overloaded("full", 1.5)
    failure.__cause__ = cause
    told = [error for _, error in parted(calls, failure, again=True).refused]
    assert len({id(error) for error in (failure, *told)}) == 4
    for error in told:
        assert isinstance(error, Overloaded)
        assert (str(error), error.retry_after_s, error.__cause__) == ("full", 1.5, cause)


arrivals = st.lists(
    st.tuples(
        st.floats(0, 3),  # after the one before
        st.integers(1, 60),  # steps
        st.sampled_from([2.0, 8.0, 50.0, math.inf]),  # timeout
        st.sampled_from([False, False, False, True]),  # whether it is bad
        st.sampled_from([None, None, None, 0.0, 1.0]),  # when its caller goes, after it came
    ),
    min_size=1,
    max_size=60,
)
replies = st.lists(
    st.tuples(
        st.floats(0, 5),  # how long it takes
        st.sampled_from(["answer", "answer", "answer", "full", "fault"]),
        st.booleans(),  # whether a refusal names all that are bad or the first alone
    ),
    min_size=1,
    max_size=20,
)


@given(arrivals, replies, st.integers(1, 6))
def test_every_caller_gets_its_own_answer_or_its_own_error_once(
    arrivals: list[tuple[float, int, float, bool, float | None]],
    replies: list[tuple[float, str, bool]],
    sequences: int,
) -> None:
    world = _World(replace(LIMITS, sequences=sequences), replies)
    now = 0.0
    for gap, steps, timeout, bad, goes in arrivals:
        now += gap
        world.at(now, "arrive", One(steps, 9 * steps, now + timeout, bad=bad), goes)
    world.run()
    assert len(world.calls) == len(arrivals)
    assert all(len(call.fates) == 1 for call in world.calls)
    assert len(world.gatherings) == 0
    event(f"joined {world.joined > 0}, asked again {world.again > 0}")


class _World:
    """Callers, the policy and a server, on a clock that jumps from one event to the next."""

    def __init__(self, limits: Limits, replies: list[tuple[float, str, bool]]) -> None:
        self.now = 0.0
        self.calls: list[One] = []
        self.joined = self.again = 0
        self.gatherings: Gatherings[One] = Gatherings(lambda _: limits)
        self._limits = limits
        self._replies = replies
        self._asked = 0
        self._events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._count = 0

    def at(self, time: float, name: str, *arguments: object) -> None:
        self._count += 1
        self._events.append((time, self._count, name, arguments))

    def run(self) -> None:
        while self._events:
            self._events.sort()
            self.now, _, name, arguments = self._events.pop(0)
            getattr(self, name)(*arguments)

    def arrive(self, call: One, goes: float | None) -> None:
        self.calls.append(call)
        gathering = self.gatherings.of(KIND)
        self.send(gathering, gathering.arrive(call, self.now))
        if goes is not None:
            self.at(self.now + goes, "go", gathering, call, "cancelled")
        if call.deadline < math.inf:
            self.at(call.deadline, "go", gathering, call, "expired")
        self.watch(gathering)

    def watch(self, gathering: Gathering[One]) -> None:
        if gathering.due() < math.inf:
            assert gathering.requests
            self.at(gathering.due(), "look", gathering)

    def look(self, gathering: Gathering[One]) -> None:
        due = gathering.due()
        leaving = gathering.overdue(self.now)
        assert bool(leaving) <= (self.now >= due)
        self.send(gathering, leaving)
        self.watch(gathering)

    def go(self, gathering: Gathering[One], call: One, why: str) -> None:
        if not call.fates:
            gathering.withdraw(call)
            call.fates.append(why)

    def send(
        self, gathering: Gathering[One], calls: list[One], again: bool = True, alone: bool = False
    ) -> None:
        if not calls:
            return
        assert not any(call.fates for call in calls)
        if len(calls) > 1:
            self.joined += 1
            assert len(calls) <= self._limits.sequences
            assert sum(call.steps for call in calls) <= self._limits.steps
            assert sum(call.size for call in calls) <= self._limits.size
        takes, kind, all_of_them = self._replies[self._asked % len(self._replies)]
        self._asked += 1
        bad = [index for index, call in enumerate(calls) if call.bad]
        error: SeqserveError | None = None
        if kind == "full":
            error = Overloaded("full")
        elif kind == "fault":
            error = ServerFault("fault")
        elif bad:
            error = refusal(*bad) if all_of_them else refusal(bad[0])
        self.at(self.now + takes, "reply", gathering, calls, error, again, alone)

    def reply(
        self,
        gathering: Gathering[One],
        calls: list[One],
        error: SeqserveError | None,
        again: bool,
        alone: bool,
    ) -> None:
        rest: list[One] = []
        if error is None:
            for call in calls:
                assert not call.bad
                self.tell(call, "answer")
        elif len(calls) == 1:
            self.tell(calls[0], error)
        else:
            parting = parted(calls, error, again=again)
            for call, own in parting.refused:
                assert call.bad or isinstance(own, Overloaded)
                self.tell(call, own)
            for call in parting.alone:
                if not call.fates:
                    self.send(gathering, [call], alone=True)
            rest = [call for call in parting.again if not call.fates]
            self.again += bool(rest)
        if alone:
            return
        self.send(gathering, gathering.leave(rest), again=False)
        self.send(gathering, self.gatherings.returned(gathering, calls, self.now))
        self.watch(gathering)

    def tell(self, call: One, fate: object) -> None:
        if not call.fates:
            call.fates.append(fate)

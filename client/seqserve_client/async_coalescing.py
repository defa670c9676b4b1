"""Single-sequence calls of several tasks, sent as one request: `coalescing`, awaited.

A call that leaves by itself is awaited by its caller; those that leave together, by a task of
their own, which ends early when all of them have gone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import grpc.aio
import numpy as np
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve_client.classification import Classification, read
from seqserve_client.deadline import Deadline
from seqserve_client.errors import Cancelled, DeadlineExceeded
from seqserve_client.gathering import Gathering, Gatherings, Kind
from seqserve_client.joined import CLOSED, Call, limits, message, parted
from seqserve_client.options import Options

# Between two looks for callers whose time is up; without, many of them would keep the event loop
# busy with looking.
_PAUSE_S = 0.001

Send = Callable[[ClassifyRequest, Deadline], Awaitable[ClassifyResponse]]


class _Caller(Call):
    """A task that waits for an answer."""

    __slots__ = ("answer", "request")

    def __init__(self, sequence: NDArray[np.float32], deadline: Deadline) -> None:
        super().__init__(sequence, deadline)
        self.answer: asyncio.Future[Classification | None] = asyncio.Future()
        """Done when the answer is here, or the caller has gone. None: to be asked for alone."""
        self.request: _Request | None = None
        """The last request that the call was part of."""


@dataclass(frozen=True)
class _Request:
    """Calls that have left together."""

    callers: list[_Caller]
    task: asyncio.Task[None]

    def end_if_deserted(self) -> None:
        """Cancels the request where nobody waits for it; one that has ended stays as it is."""
        if all(caller.answer.done() for caller in self.callers):
            self.task.cancel()


class _Expiry:
    """Ends the wait of each caller when its time is up.

    With one timer for all of them: one for each would be a good part of what a call costs.

    Args:
        end: Is given a caller whose time is up.
    """

    def __init__(self, end: Callable[[_Caller], None]) -> None:
        self._end = end
        self._callers: set[_Caller] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf

    def add(self, caller: _Caller) -> None:
        """The caller waits from now on."""
        self._callers.add(caller)
        if caller.deadline < self._looks_at:
            self._look_at(caller.deadline)

    def discard(self, caller: _Caller) -> None:
        """The caller no longer waits."""
        self._callers.discard(caller)
        if not self._callers:
            self._look_at(math.inf)  # nor does the timer keep the client alive

    def _look_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            delay_s = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)
        self._looks_at = at

    def _look(self) -> None:
        now = time.monotonic()
        for caller in [each for each in self._callers if each.deadline <= now]:
            self._callers.remove(caller)
            self._end(caller)
        earliest = min((caller.deadline for caller in self._callers), default=math.inf)
        self._look_at(max(earliest, now + _PAUSE_S))


class AsyncCoalescer:
    """Joins the calls of any number of tasks of one event loop.

    Args:
        options: The client's.
        send: Sends a request and waits for the response; fails with the package's errors.
    """

    def __init__(self, options: Options, send: Send) -> None:
        self._options = options
        self._send = send
        self._gatherings: Gatherings[_Caller] = Gatherings(partial(limits, options))
        self._watched: set[Gathering[_Caller]] = set()
        self._expiry = _Expiry(self._expire)
        self._closed = False

    async def classify(
        self, sequence: NDArray[np.float32], kind: Kind, deadline: Deadline
    ) -> Classification:
        """The answer to one sequence.

        Raises:
            SeqserveError: as if the call had been sent by itself.
        """
        caller = _Caller(sequence, deadline)
        gathering = self._gatherings.of(kind)
        leaving = gathering.arrive(caller, time.monotonic())
        if leaving == [caller]:
            try:
                return await self._asked(kind, leaving)
            finally:
                self._hand_on(gathering, leaving)
        self._depart(gathering, leaving)
        self._watch(gathering)
        self._expiry.add(caller)
        try:
            answer = await caller.answer
        except BaseException:
            gathering.withdraw(caller)
            if caller.request is not None:
                caller.request.end_if_deserted()
            raise
        finally:
            self._expiry.discard(caller)
        return await self._asked(kind, [caller]) if answer is None else answer

    def close(self) -> None:
        """Cancels the calls that have not left; those under way end with the channel."""
        self._closed = True
        for caller in self._gatherings.disband():
            if not caller.answer.done():
                caller.answer.set_exception(Cancelled(CLOSED))

    def _expire(self, caller: _Caller) -> None:
        if not caller.answer.done():
            text = f"{self._options.address} did not answer in the time given"
            caller.answer.set_exception(DeadlineExceeded(text))

    def _watch(self, gathering: Gathering[_Caller]) -> None:
        """Looks at the clock when the delay of those that wait is over, if any do."""
        if gathering in self._watched or (due := gathering.due()) == math.inf:
            return
        self._watched.add(gathering)
        delay_s = max(0.0, due - time.monotonic())
        asyncio.get_running_loop().call_later(delay_s, self._look, gathering)

    def _look(self, gathering: Gathering[_Caller]) -> None:
        self._watched.remove(gathering)
        self._depart(gathering, gathering.overdue(time.monotonic()))
        self._watch(gathering)

    def _depart(
        self, gathering: Gathering[_Caller], leaving: list[_Caller], *, again: bool = True
    ) -> None:
        """Sends the calls that leave, if any do, in a task."""
        if leaving:
            task = asyncio.create_task(self._lead(gathering, leaving, again=again))
            # Not within the task, which never begins where it is cancelled before.
            task.add_done_callback(lambda _: self._hand_on(gathering, leaving))
            request = _Request(leaving, task)  # holds the task, of which the loop is forgetful
            for caller in leaving:
                caller.request = request

    async def _lead(
        self, gathering: Gathering[_Caller], calls: list[_Caller], *, again: bool
    ) -> None:
        """Sends the calls, and tells their callers what came of it.

        Args:
            gathering: Where they come from.
            calls: Those that leave together.
            again: Whether those that a failure does not concern may be sent together once more.
        """
        try:
            answers = await self._asked(gathering.kind, calls)
        except BaseException as error:
            parting = parted(calls, error, again=again)
            for caller, own_error in parting.refused:
                if not caller.answer.done():
                    caller.answer.set_exception(own_error)
            for caller in parting.alone:
                if not caller.answer.done():
                    caller.answer.set_result(None)
            rest = [caller for caller in parting.again if not caller.answer.done()]
            self._depart(gathering, gathering.leave(rest), again=False)
            if not isinstance(error, Exception):
                raise
        else:
            for index, caller in enumerate(calls):
                if not caller.answer.done():
                    caller.answer.set_result(answers.alone(index))

    def _hand_on(self, gathering: Gathering[_Caller], calls: list[_Caller]) -> None:
        """A request has ended: others may leave now."""
        leaving = self._gatherings.returned(gathering, calls, time.monotonic())
        self._depart(gathering, leaving)

    async def _asked(self, kind: Kind, calls: Sequence[Call]) -> Classification:
        """The answers to the calls, in their order, within the time that any of them has left."""
        deadline = Deadline(max(call.deadline for call in calls))
        try:
            response = await self._send(message(kind, calls), deadline)
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise Cancelled(CLOSED) from error  # gRPC tells it in these two ways
            raise
        return read(response, sequences=len(calls), top_k=kind.top_k)

"""Single-sequence calls of several threads, sent as one request.

There is no thread but the callers'. Of those that leave together, one sends the request and tells
the others what came of it: the one with the most time left, so that the request may take as long
as any of them can wait, and nobody is held beyond its own deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse
from seqserve_client.classification import Classification, read
from seqserve_client.deadline import Deadline
from seqserve_client.errors import Cancelled, DeadlineExceeded, SeqserveError
from seqserve_client.gathering import Gathering, Gatherings, Kind
from seqserve_client.joined import CLOSED, Call, limits, message, parted
from seqserve_client.options import Options

Send = Callable[[ClassifyRequest, Deadline], ClassifyResponse]
Fate = Callable[[], Classification]


class _Caller(Call):
    """A thread that waits for an answer."""

    __slots__ = ("fate", "following", "gone", "woken")

    def __init__(self, sequence: NDArray[np.float32], deadline: Deadline) -> None:
        super().__init__(sequence, deadline)
        self.fate: Fate | None = None
        """What the thread does next, when it is known."""
        self.woken = threading.Lock()
        """Released, once, after the fate was set."""
        self.woken.acquire()
        self.following: _Caller | None = None
        """Whom the thread wakes as soon as it is awake: one that woke them all would find its
        processor taken from it by each, and they would all wait for the interpreter's lock."""
        self.gone = False
        """Whether the thread has left without waiting for its fate."""

    def wake_following(self) -> None:
        """Wakes the next, once."""
        following, self.following = self.following, None
        if following is not None:
            following.woken.release()

    def meet_fate(self) -> Classification:
        """The answer, or the error, or first the work that it takes."""
        fate, self.fate = self.fate, None  # which may hold the caller in turn
        assert fate is not None
        return fate()


class Coalescer:
    """Joins the calls of any number of threads.

    Args:
        options: The client's.
        send: Sends a request and waits for the response; fails with the package's errors.
    """

    def __init__(self, options: Options, send: Send) -> None:
        self._options = options
        self._send = send
        # A fate is set under the lock in which it was decided: a caller whose time is up looks
        # there before it goes, so that whoever is to send a request is there to do so.
        self._lock = threading.Lock()
        self._gatherings: Gatherings[_Caller] = Gatherings(partial(limits, options))
        self._closed = False

    def classify(
        self, sequence: NDArray[np.float32], kind: Kind, deadline: Deadline
    ) -> Classification:
        """The answer to one sequence.

        Raises:
            SeqserveError: as if the call had been sent by itself.
        """
        caller = _Caller(sequence, deadline)
        # Ctrl-C reaches the main thread alone and may strike anywhere, so nobody depends on it.
        if threading.get_ident() == threading.main_thread().ident:
            return self._alone(kind, caller)
        with self._lock:
            gathering = self._gatherings.of(kind)
            leaving = gathering.arrive(caller, time.monotonic())
            leader = self._appointed(gathering, leaving, caller)
            until = _looks_up_at(gathering, caller)
        if leader is not caller:
            if leader is not None:
                leader.woken.release()
            try:
                self._wait(gathering, caller, until)
            except BaseException:
                with self._lock:
                    caller.gone = True
                    gathering.withdraw(caller)
                raise
            finally:
                caller.wake_following()
        return caller.meet_fate()

    def close(self) -> None:
        """Cancels the calls that have not left; those under way end with the channel."""
        with self._lock:
            self._closed = True
            waiting = self._gatherings.disband()
            for caller in waiting:
                caller.fate = partial(_fail, Cancelled(CLOSED))
        for caller in waiting:
            caller.woken.release()

    def _wait(self, gathering: Gathering[_Caller], caller: _Caller, until: float) -> None:
        """Waits for the caller's fate; whoever waits longest looks at the clock for the others.

        Raises:
            DeadlineExceeded: its time is up.
        """
        while not caller.woken.acquire(timeout=_lock_timeout(until - time.monotonic())):
            with self._lock:
                if caller.fate is not None:
                    return
                now = time.monotonic()
                expired = now >= caller.deadline
                leaving = []
                if gathering.first(caller):
                    leaving = gathering.depart(now) if expired else gathering.overdue(now)
                leader = self._appointed(gathering, leaving, caller)
                until = _looks_up_at(gathering, caller)
            if leader is caller:
                return
            if leader is not None:
                leader.woken.release()
            if expired:
                raise self._too_late()

    def _appointed(
        self,
        gathering: Gathering[_Caller],
        leaving: list[_Caller],
        own: _Caller,
        *,
        again: bool = True,
    ) -> _Caller | None:
        """Who sends the request of those that leave, if any do; needs the lock."""
        if not leaving:
            return None
        # With equal time left, this thread, which is awake.
        leader = max(leaving, key=lambda caller: (caller.deadline, caller is own))
        leader.fate = partial(self._lead, gathering, leaving, leader, again=again)
        return leader

    def _lead(
        self, gathering: Gathering[_Caller], calls: list[_Caller], own: _Caller, *, again: bool
    ) -> Classification:
        """Sends the calls and tells the others what came of it; the answer to the own call.

        Args:
            gathering: Where they come from.
            calls: Those that leave together.
            own: That of this thread.
            again: Whether those that a failure does not concern may be sent together once more.
        """
        if len(calls) == 1:
            try:
                return self._asked(gathering.kind, calls, own.deadline)
            finally:
                self._hand_on(gathering, calls, own)
        try:
            answers = self._asked(gathering.kind, calls, own.deadline)
        except BaseException as error:
            parting = parted(calls, error, again=again)
            told: list[tuple[_Caller, Fate]] = [
                (caller, partial(_fail, own_error)) for caller, own_error in parting.refused
            ]
            told += [
                (caller, partial(self._alone, gathering.kind, caller)) for caller in parting.alone
            ]
            self._hand_on(gathering, calls, own, told, parting.again)
            if not isinstance(error, Exception):
                raise
        else:
            told = [(caller, partial(answers.alone, index)) for index, caller in enumerate(calls)]
            self._hand_on(gathering, calls, own, told)
        if own.fate is None:  # to be sent again, but its time is up
            raise self._too_late()
        return own.meet_fate()

    def _hand_on(
        self,
        gathering: Gathering[_Caller],
        calls: list[_Caller],
        own: _Caller,
        told: Sequence[tuple[_Caller, Fate]] = (),
        again: Sequence[_Caller] = (),
    ) -> None:
        """A request has ended: others may leave now, and its callers learn their fates.

        Args:
            gathering: Where its calls came from.
            calls: Those of the request.
            own: That of this thread, which needs no waking.
            told: The fates of its callers.
            again: Those of them that are to leave once more instead.
        """
        with self._lock:
            now = time.monotonic()
            rest = [caller for caller in again if not caller.gone and caller.deadline > now]
            leaders = [
                self._appointed(gathering, gathering.leave(rest), own, again=False),
                self._appointed(gathering, self._gatherings.returned(gathering, calls, now), own),
            ]
            following = None
            for caller, fate in reversed(told):
                caller.fate = fate
                if caller is not own and not caller.gone:
                    caller.following, following = following, caller
        for woken in (*leaders, following):
            if woken is not None and woken is not own:
                woken.woken.release()

    def _alone(self, kind: Kind, caller: _Caller) -> Classification:
        return self._asked(kind, [caller], caller.deadline)

    def _asked(self, kind: Kind, calls: Sequence[Call], deadline: float) -> Classification:
        """The answers to the calls, in their order."""
        try:
            response = self._send(message(kind, calls), Deadline(deadline))
        except ValueError as error:
            if self._closed:  # which gRPC has no error of its own for
                raise Cancelled(CLOSED) from error
            raise
        return read(response, sequences=len(calls), top_k=kind.top_k)

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self._options.address} did not answer in the time given")


def _looks_up_at(gathering: Gathering[_Caller], caller: _Caller) -> float:
    """When a caller that waits looks at the clock; needs the lock."""
    return min(gathering.due(), caller.deadline) if gathering.first(caller) else caller.deadline


def _lock_timeout(wait_s: float) -> float:
    """Seconds as `Lock.acquire` takes them."""
    return max(0.0, wait_s) if wait_s < threading.TIMEOUT_MAX else -1


def _fail(error: SeqserveError) -> NoReturn:
    try:
        raise error
    finally:
        del error  # holds this frame, which would hold it

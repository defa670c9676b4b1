"""A model whose runs the test holds and lets go, and lanes whose work it awaits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from numpy.typing import NDArray

from seqserve.graph import Outputs
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.stats import Stats
from seqserve_server.scheduling.work import Leave, Outcome, Work
from tests.server.scheduling.checksum_model import (
    FORWARD,
    Array,
    checksums,
    make_runner,
)

TIMEOUT_S = 60.0


class Held:
    """A model whose runs stand still while it is shut, and fail for negative values."""

    def __init__(self, *, shut: bool = False, cost: Coefficients | None = None) -> None:
        self.runner = make_runner(FORWARD, self._run, cost=cost)
        self.runs = 0
        self._entered = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)
        if not shut:
            self.open()

    def open(self) -> None:
        self.let(1 << 20)

    def let(self, runs: int) -> None:
        """Lets so many runs go on."""
        self._permits.release(runs)

    async def entered(self) -> None:
        """Until a run stands at the gate: its lane is busy from then on."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=TIMEOUT_S)

    def _run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Array]:
        self.runs += 1
        self._entered.release()
        assert self._permits.acquire(timeout=TIMEOUT_S)
        if (input_feed["values"] < 0).any():
            raise RuntimeError("negative")
        return checksums(output_names, input_feed)


class Answer(asyncio.Future[Outputs]):
    """What a caller awaits; to cancel it is to leave."""

    leave: Leave

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.leave()
        return cancelled


class Awaited:
    """Lanes whose work is awaited on the test's event loop."""

    def __init__(self, lanes: LaneScheduler) -> None:
        self.lanes = lanes

    def submit(self, work: Work) -> Answer:
        answer, loop = Answer(), asyncio.get_running_loop()

        def tell(outcome: Outcome) -> None:
            loop.call_soon_threadsafe(self._settle, answer, outcome)

        answer.leave = self.lanes.submit(work, tell)
        return answer

    def stats(self) -> Stats:
        return self.lanes.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self.lanes.close)

    def _settle(self, answer: Answer, outcome: Outcome) -> None:
        del answer.leave
        if answer.cancelled():  # told just as it left
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


@asynccontextmanager
async def scheduling(
    *, lanes: int = 1, max_queue_steps: int = 1 << 20, now: list[float] | None = None
) -> AsyncIterator[Awaited]:
    """`now` is a clock moved by hand."""
    clock = now or [0.0]
    scheduler = Awaited(
        LaneScheduler(lanes=lanes, max_queue_steps=max_queue_steps, clock=lambda: clock[0])
    )
    scheduler.lanes.start()
    yield scheduler
    await asyncio.wait_for(scheduler.close(), TIMEOUT_S)


async def ended(*futures: asyncio.Future[Outputs]) -> list[Outputs | BaseException]:
    """What each ends with; all of them end."""
    gathered = asyncio.gather(*futures, return_exceptions=True)
    return await asyncio.wait_for(gathered, TIMEOUT_S)


def made_to_fail(work: Work) -> Work:
    work.rows.values[-1] = -1
    return work

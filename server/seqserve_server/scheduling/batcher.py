"""Continuous batching of one model: the pool decides, the store holds the numbers, the graph runs.

`prepare` and `finish` are short and must not run at the same time as any other method but `run`;
`run` is where the time goes, touches neither pool nor store, and lets go of the interpreter.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from seqserve.graph import Outputs
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.cost import Spent
from seqserve_server.scheduling.pool import Batch, Pool, Turn
from seqserve_server.scheduling.row_store import Feed, RowStore, Workspace
from seqserve_server.scheduling.ticket import Ticket
from seqserve_server.scheduling.work import Work


class WorkTicket(Ticket):
    """A ticket with the numbers of its rows."""

    __slots__ = ("__weakref__", "work")

    def __init__(self, work: Work, arrived: float) -> None:
        super().__init__(work.rows.lengths, arrived, work.service_class, work.deadline)
        self.values = work.rows.values
        self.work = work


@dataclass(eq=False)
class Prepared:
    """A turn with what its batches read and, once run, gave."""

    batcher: Batcher
    turn: Turn
    feeds: list[Feed]
    began_s: float
    """When its preparation began."""
    began_cost_s: float
    """The same on the clock of the costs."""
    outputs: list[Outputs] = field(default_factory=list)
    error: Exception | None = None
    """What the batch after the last output failed with."""
    run_s: list[float] = field(default_factory=list)
    """Time in the graph, of each batch that has run."""

    @property
    def batches_run(self) -> list[Batch]:
        """The batches that have run."""
        return self.turn.batches[: len(self.outputs)]

    @property
    def rows(self) -> int:
        """How many of the turn's rows have run."""
        return self.turn.batches[len(self.outputs) - 1].stop if self.outputs else 0

    @property
    def predicted_s(self) -> float:
        """What the batches that have run were expected to take."""
        cost = self.batcher.pool.cost
        return cost.now.turn + sum(
            cost.run_s(batch.stop - batch.first, batch.steps) for batch in self.batches_run
        )

    @property
    def useful_steps(self) -> int:
        """Steps that were asked for, of the batches that have run."""
        return sum(self.turn.advance[: self.rows].tolist())

    def spent(self) -> Spent:
        """What was run, and what it took from the beginning of its preparation until now."""
        batches = self.batches_run
        carried = [
            batch.stop - batch.first
            for batch, feed in zip(batches, self.feeds, strict=False)
            if feed.keep_state or feed.state is not None
        ]
        return Spent(
            runs=len(batches),
            steps=sum(batch.steps for batch in batches),
            rows=self.rows,
            row_steps=sum((batch.stop - batch.first) * batch.steps for batch in batches),
            carried=sum(carried),
            seconds=max(self.batcher.cost_clock() - self.began_cost_s, 1e-9),
        )


Settled = list[tuple[Ticket, Outputs | Exception]]


def own(error: Exception) -> Exception:
    """A copy for one caller: each adds its own traceback where it is raised."""
    try:
        return copy.copy(error)
    except Exception:  # not every error lets itself be copied
        return error


class Batcher:
    """Advances the rows of one model.

    Args:
        runner: The model.
        lanes: How many lanes share its rows.
        bulk_patience_s: When bulk rows count as interactive.
    """

    def __init__(self, runner: Runner, *, lanes: int = 1, bulk_patience_s: float = 10.0) -> None:
        self._graph = runner.graph
        self.model = runner.model
        self.cost_clock = runner.cost_clock
        self.turns = 0
        """How many have run."""
        self._store = RowStore(runner)
        self.pool = Pool(
            runner.cost,
            slots=self._store.slots,
            steps=runner.play_steps,
            whole=runner.whole,
            max_row_steps=runner.max_row_steps,
            lanes=lanes,
            bulk_patience_s=bulk_patience_s,
        )

    def admit(self, now: float) -> list[Ticket]:
        """Lets waiting tickets in as far as there is room; returns those that expired."""
        admitted, expired = self.pool.admit(now)
        if admitted.tickets:
            self._store.put(admitted)
            for ticket in admitted.tickets:
                assert isinstance(ticket, WorkTicket)
                if ticket.work.state is not None:
                    self._store.put_state(ticket.slots, ticket.work.state)
        return expired

    def prepare(self, now: float, workspace: Workspace) -> Prepared | None:
        """The next turn, ready to run; None where no row is."""
        began_cost_s = self.cost_clock()
        turn = self.pool.turn(now)
        if turn is None:
            return None
        return Prepared(self, turn, self._store.feeds(turn, workspace), now, began_cost_s)

    def run(self, prepared: Prepared, go_on: Callable[[], bool] = lambda: True) -> None:
        """Runs a turn's batches one after the other: the first, and more as long as `go_on`."""
        for feed in prepared.feeds:
            if prepared.outputs and not go_on():
                break
            begin = time.perf_counter()
            try:
                prepared.outputs.append(
                    self._graph(feed.values, feed.lengths, feed.state, keep_state=feed.keep_state)
                )
            except BaseException as error:  # whatever it is, its callers are told
                prepared.error = (
                    error
                    if isinstance(error, Exception)
                    else RuntimeError(f"a run ended: {error!r}")
                )
                break
            prepared.run_s.append(time.perf_counter() - begin)

    def finish(self, prepared: Prepared) -> Settled:
        """Takes in what a turn gave; returns the tickets that are settled by it."""
        turn = prepared.turn
        settled: Settled = []
        self.turns += 1
        tried = len(prepared.outputs) + (prepared.error is not None)
        try:
            self._store.save(turn, prepared.outputs)
        except Exception as error:  # what became of these rows nobody knows; of others nothing
            prepared.error = error
            prepared.outputs.clear()
            prepared.run_s.clear()
        ran = len(prepared.outputs)
        if prepared.error is not None:
            failed = turn.slots[turn.batches[ran].first : turn.batches[tried - 1].stop]
            for ticket in self.pool.owners(failed):
                settled.append((ticket, own(prepared.error)))
                self.pool.drop(ticket)
        complete = self.pool.done(turn, ran)
        if complete.tickets:
            logits, probabilities = self._store.results(complete.slots)
            first = 0
            for ticket in complete.tickets:
                assert isinstance(ticket, WorkTicket)
                stop = first + len(ticket.slots)
                state = {} if ticket.work.state is None else self._store.state(ticket.slots)
                settled.append(
                    (ticket, Outputs(logits[first:stop], probabilities[first:stop], state))
                )
                first = stop
        return settled

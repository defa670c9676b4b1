"""Lanes for sets of rows that are known beforehand: no queue to leave, no deadline, no turns.

A lane takes the next turn that `offline` has planned, of the oldest set that has one left, so that
all of them are busy at a set's end as long as another set is there. onnxruntime lets go of the
interpreter while it computes; around a run the same few calls are made for any number of rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from seqserve.graph import Array, Outputs, State
from seqserve.ragged import RaggedBatch
from seqserve_server.errors import Draining
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.offline import Turn, plan
from seqserve_server.scheduling.pool import Batch
from seqserve_server.scheduling.row_store import Workspace

_log = logging.getLogger(__name__)

_JOIN_S = 10.0


class Answers(NamedTuple):
    """What a set of n rows gave."""

    logits: Array
    """(n, classes)."""
    probabilities: Array
    """(n, classes)."""
    computed_steps: int
    """Rows × steps, padding included."""


Tell = Callable[[Answers | Exception], None]


class OfflineLanes:
    """Runs sets of rows of one model on threads of their own.

    Args:
        runner: The model.
        lanes: How many runs there are at the same time.
    """

    def __init__(self, runner: Runner, lanes: int) -> None:
        self._runner = runner
        self._changed = threading.Condition()  # guards all below
        self._open: deque[_Set] = deque()  # those that have turns left to begin
        self._untold: set[_Set] = set()
        self._closed = False
        self._lanes = [
            threading.Thread(target=self._run_lane, name=f"seqserve-lane-{index}", daemon=True)
            for index in range(lanes)
        ]

    def start(self) -> None:
        """Begins to run."""
        for lane in self._lanes:
            lane.start()

    def submit(self, rows: RaggedBatch, tell: Tell) -> None:
        """Takes a set in; waits for no lane.

        Args:
            rows: At least one.
            tell: Told once what became of it, on another thread: Draining where the lanes are
                closed first, and what a run raised. It must not raise.

        Raises:
            Draining: the lanes are closed.
        """
        added = _Set(rows, self._runner, tell)
        with self._changed:
            if self._closed:
                raise Draining
            self._open.append(added)
            self._untold.add(added)
            self._changed.notify_all()

    def close(self) -> None:
        """Gives up what is not answered yet, and waits for the runs that have begun to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            untold = tuple(self._untold)
        for each in untold:
            self._tell(each, Draining())
        end = time.monotonic() + _JOIN_S
        for lane in self._lanes:
            lane.join(max(0.0, end - time.monotonic()))
            if lane.is_alive():
                _log.warning("%s still runs after %g s; it is left behind", lane.name, _JOIN_S)

    def _run_lane(self) -> None:
        workspace = Workspace()
        while self._run_one(workspace):
            pass

    def _run_one(self, workspace: Workspace) -> bool:
        """Whether there was one, and not the end."""
        taken = self._take()
        if taken is None:
            return False
        rows, turn = taken
        try:
            rows.advance(turn, workspace, self._go_on)
        except BaseException as error:  # whatever it is, somebody waits
            self._tell(rows, error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return True
        with self._changed:
            rows.turns_left -= 1
            last = not rows.turns_left
        if last:
            self._tell(rows, rows.answers())
        return True

    def _take(self) -> tuple[_Set, Turn] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._closed)
            if self._closed:
                return None
            rows = self._open[0]
            turn = rows.turns.popleft()
            if not rows.turns:
                self._open.popleft()
            return rows, turn

    def _tell(self, rows: _Set, outcome: Answers | Exception) -> None:
        """The first word on a set is the last; of one that failed, no further run is begun."""
        with self._changed:
            if rows not in self._untold:
                return
            self._untold.remove(rows)
            if rows in self._open:
                self._open.remove(rows)
        try:
            rows.tell(outcome)
        except Exception:  # it must not, and others are to be told
            _log.exception("somebody could not be told")

    def _go_on(self) -> bool:
        return not self._closed


class _Set:
    """Rows, the runs that they are cut into, and what these gave."""

    def __init__(self, rows: RaggedBatch, runner: Runner, tell: Tell) -> None:
        planned = plan(rows.lengths, runner)
        order = planned.order
        turns = planned.turns(runner.max_row_steps)
        self.tell = tell
        self.turns = deque(turns)
        """Those that are not begun, the longest rows first."""
        self.turns_left = len(turns)
        """Those that have not ended."""
        self._runner = runner
        self._computed_steps = planned.computed_steps
        # In the order of the plan, so that what a run reads and writes is a slice of each.
        self._order = order
        self._lengths = rows.lengths[order].astype(np.int32)
        self._starts = rows.offsets[order]
        self._lasts = rows.offsets[order + 1] - 1
        self._logits = np.empty((len(rows), runner.classes), np.float32)
        self._probabilities = np.empty_like(self._logits)
        self._values = rows.values

    def advance(self, turn: Turn, workspace: Workspace, go_on: Callable[[], bool]) -> None:
        """Makes its runs, and keeps what they gave."""
        logits: list[Array] = []
        probabilities: list[Array] = []
        for run, padded in zip(turn, self._padded(turn, workspace), strict=True):
            if run.stop - run.first == 1:
                given = self._alone(run, go_on)
            else:
                if not go_on():
                    raise Draining
                lengths = self._lengths[run.first : run.stop]
                given = self._runner.graph(padded, lengths, keep_state=False)
            logits.append(given.logits)
            probabilities.append(given.probabilities)
        rows = slice(turn[0].first, turn[-1].stop)
        np.concatenate(logits, out=self._logits[rows])
        np.concatenate(probabilities, out=self._probabilities[rows])

    def answers(self) -> Answers:
        """Of all rows in their order, when no run is left."""
        logits, probabilities = np.empty_like(self._logits), np.empty_like(self._probabilities)
        logits[self._order], probabilities[self._order] = self._logits, self._probabilities
        return Answers(logits, probabilities, self._computed_steps)

    def _padded(self, turn: Turn, workspace: Workspace) -> list[Array]:
        """(rows, steps, features) of each run: beyond a row's end its last step, in one gather.

        Nothing of a row that runs alone, which needs no copy.
        """
        shapes = [(stop - first if stop - first > 1 else 0, steps) for first, stop, steps in turn]
        features = self._runner.features
        cells = workspace.array(sum(rows * steps for rows, steps in shapes), features)
        padded: list[Array] = []
        for run, (count, steps) in zip(turn, shapes, strict=True):
            rows = slice(run.first, run.first + count)
            index = self._starts[rows, None] + np.arange(steps)
            np.minimum(index, self._lasts[rows, None], out=index)
            part, cells = cells[: count * steps], cells[count * steps :]
            part = part.reshape(count, steps, features)
            # All are in range; without a mode numpy would gather elsewhere first, in case one is
            # not.
            padded.append(self._values.take(index, axis=0, out=part, mode="clip"))
        return padded

    def _alone(self, run: Batch, go_on: Callable[[], bool]) -> Outputs:
        """One row, however long: in pieces where a run cannot hold it and its state is carried."""
        first = int(self._starts[run.first])
        end = first + run.steps
        piece = run.steps if self._runner.whole else self._runner.max_row_steps
        state: State | None = None
        while go_on():
            values = self._values[None, first : min(first + piece, end)]
            first += piece
            given = self._runner.graph(
                values, np.array([values.shape[1]], np.int32), state, keep_state=first < end
            )
            if first >= end:
                return given
            state = given.state
        raise Draining

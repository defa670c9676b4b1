"""The numbers of the rows in play: what they read, carry and answer. Every move is one gather.

Values lie end to end, as they came; when the end of the space is reached, what is still to be
read moves to its beginning. State and results have a place for every slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from seqserve.graph import Array, Outputs, State, batch_axis
from seqserve_server.runner import Runner
from seqserve_server.scheduling.pool import Slots, Turn
from seqserve_server.scheduling.work import MAX_ROWS, Work

Number = TypeVar("Number", bound=np.generic)

_STORE_BYTES = 32 << 20
"""For state and results."""
MOST_SLOTS = 2048


@dataclass(frozen=True, eq=False)
class Feed:
    """What one batch reads."""

    values: Array
    """(rows, steps, features); beyond a row's length its last step again."""
    lengths: NDArray[np.int32]
    """(rows,)."""
    state: State | None
    """None where every row is at its beginning."""
    keep_state: bool
    """Whether the state after the run is wanted."""


class Workspace:
    """Memory that a lane uses turn after turn."""

    def __init__(self) -> None:
        self._numbers = np.empty(0, np.float32)
        self._count = np.arange(1024)

    def count(self, stop: int) -> NDArray[np.int64]:
        """0, 1, 2, … up to before `stop`."""
        if len(self._count) < stop:
            self._count = np.arange(2 * stop)
        return self._count[:stop]

    def array(self, rows: int, columns: int) -> Array:
        """Uninitialised (rows, columns), until the next call."""
        if self._numbers.size < rows * columns:
            self._numbers = np.empty(2 * rows * columns, np.float32)
        return self._numbers[: rows * columns].reshape(rows, columns)


class RowStore:
    """The numbers of one model's rows in play.

    Args:
        runner: The model.
    """

    def __init__(self, runner: Runner) -> None:
        graph = runner.graph
        self._tensors: list[tuple[str, tuple[Any, ...], float]] = [
            (tensor.name, (slice(None),) * batch_axis(tensor), tensor.initial)
            for tensor in graph.state_tensors
        ]
        self._features = runner.features
        row_numbers = 2 * runner.classes + sum(
            int(np.prod([size for size in tensor.dims if size != -1]))
            for tensor in graph.state_tensors
        )
        self.slots = min(max(_STORE_BYTES // (4 * row_numbers), MAX_ROWS), MOST_SLOTS)
        """How many rows it holds."""
        # Twice the steps in play: half of it may have been read already.
        self._values = np.empty((2 * runner.play_steps, runner.features), np.float32)
        self._spare = np.empty_like(self._values)  # takes memory once it is written to
        self._end = 0
        self._next = np.zeros(self.slots, np.int64)
        self._state = {
            tensor.name: np.empty(
                [self.slots if size == -1 else size for size in tensor.dims], np.float32
            )
            for tensor in graph.state_tensors
        }
        self._has_state = np.zeros(self.slots, np.bool_)  # came with one, and is asked for it
        self._logits = np.empty((self.slots, runner.classes), np.float32)
        self._probabilities = np.empty((self.slots, runner.classes), np.float32)

    def room(self, steps: int) -> bool:
        """Whether so many steps can be put without `compact`."""
        return self._end + steps <= len(self._values)

    def compact(self, slots: Slots, remaining: NDArray[np.int64], steps: int) -> None:
        """Makes room for `steps`: keeps what the rows at `slots` still have to read."""
        live = _segments(self._next[slots], remaining)
        needed = len(live) + steps
        if len(self._spare) < needed:  # for one ticket that is larger than the store
            self._spare = np.empty((needed, self._features), np.float32)
        np.take(self._values, live, axis=0, out=self._spare[: len(live)], mode="clip")
        self._values, self._spare = self._spare, self._values
        self._next[slots] = np.cumsum(remaining) - remaining
        self._end = len(live)

    def put(self, slots: Slots, works: Sequence[Work]) -> None:
        """Takes in the rows of works; there is room for their steps.

        Args:
            slots: For the rows of all works, one after the other.
            works: At least one.
        """
        lengths = _joined([work.rows.lengths for work in works])
        ends = np.cumsum(lengths)
        start, self._end = self._end, self._end + int(ends[-1])
        np.concatenate([work.rows.values for work in works], out=self._values[start : self._end])
        self._next[slots] = start + ends - lengths
        self._has_state[slots] = False
        first = 0
        for work in works:
            stop = first + len(work.rows)
            if work.state is not None:
                mine = slots[first:stop]
                self._has_state[mine] = True
                self._save(mine, work.state)
            first = stop

    def feeds(self, turn: Turn, workspace: Workspace) -> list[Feed]:
        """What the batches of a turn read; the values are the workspace's."""
        slots, advance = turn.slots, turn.advance
        has_state = self._has_state[slots]
        if np.count_nonzero(has_state):
            begun, keep = turn.begun | has_state, ~turn.ends | has_state
        else:
            begun, keep = turn.begun, ~turn.ends
        any_begun, any_kept = bool(np.count_nonzero(begun)), bool(np.count_nonzero(keep))
        starts = self._next[slots][:, None]
        ends = starts + advance[:, None] - 1
        lengths = advance.astype(np.int32)
        cells = sum((batch.stop - batch.first) * batch.steps for batch in turn.batches)
        values = workspace.array(cells, self._features)
        feeds, cell = [], 0
        for batch in turn.batches:
            mine = slice(batch.first, batch.stop)
            rows = batch.stop - batch.first
            # (rows, steps): where each step is; beyond a row's end its last step again.
            places = starts[mine] + workspace.count(batch.steps)
            np.minimum(places, ends[mine], out=places)
            stop = cell + rows * batch.steps
            target = values[cell:stop].reshape(rows, batch.steps, self._features)
            np.take(self._values, places, axis=0, out=target, mode="clip")
            feeds.append(
                Feed(
                    values=target,
                    lengths=lengths[mine],
                    state=self._load(slots[mine], begun[mine]) if any_begun else None,
                    keep_state=any_kept and bool(np.count_nonzero(keep[mine])),
                )
            )
            cell = stop
        return feeds

    def save(self, turn: Turn, outputs: list[Outputs]) -> None:
        """Takes in what the first batches of a turn gave."""
        for batch, given in zip(turn.batches, outputs, strict=False):
            if given.state:
                self._save(turn.slots[batch.first : batch.stop], given.state)
        rows = turn.batches[len(outputs) - 1].stop if outputs else 0
        slots, ends = turn.slots[:rows], turn.ends[:rows]
        self._next[slots] += turn.advance[:rows]
        if outputs:
            logits = _joined([given.logits for given in outputs])
            probabilities = _joined([given.probabilities for given in outputs])
            if np.count_nonzero(ends) < rows:
                slots, logits, probabilities = slots[ends], logits[ends], probabilities[ends]
            self._logits[slots] = logits
            self._probabilities[slots] = probabilities

    def results(self, slots: Slots) -> tuple[Array, Array]:
        """Logits and probabilities of rows that have reached their end."""
        return self._logits[slots], self._probabilities[slots]

    def state(self, slots: Slots) -> dict[str, Array]:
        """The state of rows that have one."""
        return {
            name: self._state[name].take(slots, axis=len(before))
            for name, before, _ in self._tensors
        }

    def _load(self, slots: Slots, begun: NDArray[np.bool_]) -> State | None:
        count = np.count_nonzero(begun)
        if not count:
            return None
        state = self.state(slots)
        if count < len(begun):
            fresh = ~begun
            for name, before, initial in self._tensors:
                state[name][(*before, fresh)] = initial
        return state

    def _save(self, slots: Slots, state: State) -> None:
        for name, before, _ in self._tensors:
            self._state[name][(*before, slots)] = state[name]


def _joined(parts: list[NDArray[Number]]) -> NDArray[Number]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _segments(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices from each start on, `counts` of them, end to end."""
    return np.arange(int(counts.sum())) + np.repeat(starts - np.cumsum(counts) + counts, counts)

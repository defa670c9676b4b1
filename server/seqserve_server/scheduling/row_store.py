"""The numbers of the rows in play: what they read, carry and answer.

Values are read from where they came. State and results have a place for every slot, and every
move of them is one gather.
"""

from __future__ import annotations

from itertools import accumulate, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqserve.graph import Array, Outputs, State, batch_axis
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.pool import Group, Slots, Turn
from seqserve_server.scheduling.work import MAX_ROWS

_STORE_BYTES = 32 << 20
"""For state and results."""
MOST_SLOTS = 2048


class Feed(NamedTuple):
    """What one batch reads."""

    values: Array
    """(rows, steps, features); 0 beyond a row's length."""
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
        self._tensors: list[tuple[str, tuple[Any, ...]]] = [
            (tensor.name, (slice(None),) * batch_axis(tensor)) for tensor in graph.state_tensors
        ]
        self._features = runner.features
        self._zeros = np.zeros((256, runner.features), np.float32)
        row_numbers = 2 * runner.classes + sum(
            int(np.prod([size for size in tensor.dims if size != -1]))
            for tensor in graph.state_tensors
        )
        self.slots = min(max(_STORE_BYTES // (4 * row_numbers), MAX_ROWS), MOST_SLOTS)
        """How many rows it holds."""
        self._state = {
            tensor.name: np.empty(
                [self.slots + 1 if size == -1 else size for size in tensor.dims], np.float32
            )
            for tensor in graph.state_tensors
        }
        # Beyond the slots: the state of every row that is at its beginning.
        self._save(np.array([self.slots]), graph.initial_state(1))
        self._next = np.zeros(self.slots, np.int64)  # of its ticket's values
        self._has_state = np.zeros(self.slots, np.bool_)  # came with one, and is asked for it
        self._logits = np.empty((self.slots, runner.classes), np.float32)
        self._probabilities = np.empty((self.slots, runner.classes), np.float32)

    def put(self, group: Group) -> None:
        """Takes in the rows of tickets that are in play from now on, at their beginning."""
        starts: list[int] = []
        for ticket in group.tickets:
            starts += accumulate(ticket.lengths.tolist()[:-1], initial=0)
        self._next[group.slots] = starts
        self._has_state[group.slots] = False

    def put_state(self, slots: Slots, state: State) -> None:
        """Takes in the state that rows came with."""
        self._has_state[slots] = True
        self._save(slots, state)

    def feeds(self, turn: Turn, workspace: Workspace) -> list[Feed]:
        """What the batches of a turn read; the values are the workspace's."""
        slots = turn.slots
        begun, ends = turn.begun, turn.ends
        has_state = self._has_state[slots]
        if np.count_nonzero(has_state):
            begun, ends = begun | has_state, ends & ~has_state
        any_begun, all_end = np.count_nonzero(begun), np.count_nonzero(ends) == len(ends)
        values = self._padded(turn, workspace)
        lengths = turn.advance.astype(np.int32)
        feeds, cell = [], 0
        for first, stop, steps in turn.batches:
            rows, end = slice(first, stop), cell + (stop - first) * steps
            feeds.append(
                Feed(
                    values=values[cell:end].reshape(stop - first, steps, self._features),
                    lengths=lengths[rows],
                    state=self._load(slots[rows], begun[rows]) if any_begun else None,
                    keep_state=not (all_end or np.count_nonzero(ends[rows]) == stop - first),
                )
            )
            cell = end
        return feeds

    def save(self, turn: Turn, outputs: list[Outputs]) -> None:
        """Takes in what the first batches of a turn gave."""
        if not outputs:
            return
        slots = turn.slots[: turn.batches[len(outputs) - 1].stop]
        # For rows that go on as well: they will write it again.
        self._logits[slots] = np.concatenate([given.logits for given in outputs])
        self._probabilities[slots] = np.concatenate([given.probabilities for given in outputs])
        for (first, stop, _), given in zip(turn.batches, outputs, strict=False):
            if given.state:  # as some go on
                self._next[slots[first:stop]] += turn.advance[first:stop]
                self._save(slots[first:stop], given.state)

    def results(self, slots: Slots) -> tuple[Array, Array]:
        """Logits and probabilities of rows that have reached their end."""
        return self._logits.take(slots, axis=0), self._probabilities.take(slots, axis=0)

    def state(self, slots: Slots) -> dict[str, Array]:
        """The state of rows that have one."""
        return {
            name: self._state[name].take(slots, axis=len(before)) for name, before in self._tensors
        }

    def _padded(self, turn: Turn, workspace: Workspace) -> Array:
        """What the rows of a turn read, end to end, each as long as its batch."""
        starts = self._next[turn.slots].tolist()
        rows = zip(turn.tickets, starts, turn.advance.tolist(), strict=True)
        parts: list[Array] = []
        cells = 0
        for first, stop, longest in turn.batches:
            if len(self._zeros) < longest:
                self._zeros = np.zeros((2 * longest, self._features), np.float32)
            zeros = self._zeros
            for ticket, start, steps in islice(rows, stop - first):
                parts.append(ticket.values[start : start + steps])
                if steps < longest:
                    parts.append(zeros[: longest - steps])
            cells += (stop - first) * longest
        return np.concatenate(parts, out=workspace.array(cells, self._features))

    def _load(self, slots: Slots, begun: NDArray[np.bool_]) -> State | None:
        count = np.count_nonzero(begun)
        if not count:
            return None
        return self.state(slots if count == len(begun) else np.where(begun, slots, self.slots))

    def _save(self, slots: Slots, state: State) -> None:
        for name, before in self._tensors:
            self._state[name][(*before, slots)] = state[name]

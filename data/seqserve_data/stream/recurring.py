"""Ids that come again: rows of one sequence that do not lie together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqserve_data.errors import InvalidLayout
from seqserve_data.stream.block import Position
from seqserve_data.stream.files import File
from seqserve_data.stream.run import Run

Ids: TypeAlias = "pa.Array[Any]"
Hashes = NDArray[np.int64]


class Recurrence:
    """Finds a sequence whose id an earlier one had.

    As long as ids ascend only the last of them is held. From the first that does not on, of each
    its hash is: 8 bytes. Two ids may share one, so a hash that comes again is believed only when
    the id itself was found among the earlier ones, by reading them again.
    """

    def __init__(
        self, read: Callable[[], Iterator[Run]], id_column: str, files: Sequence[File]
    ) -> None:
        """Reads nothing.

        Args:
            read: All sequences of the input, of which only ids and begins are looked at.
            id_column: For messages.
            files: The input's, for messages.
        """
        self._read = read
        self._id_column = id_column
        self._files = files
        self._last: Ids | None = None
        self._seen: _Seen | None = None

    def checked(self, runs: Iterator[Run], begin: Position) -> Iterator[Run]:
        """The runs as they are, which begin at `begin`.

        Raises:
            InvalidLayout: when the first sequence comes that came before.
        """
        if begin > Position():
            for ids, _ in self._before(begin):
                if not self._ascends(ids):
                    self._seen = self._hashed(begin)
                    break
        for run in runs:
            self._check(run)
            yield run

    def _check(self, run: Run) -> None:
        if self._seen is None:
            if self._ascends(run.ids.drop_null()):
                return
            self._seen = self._hashed(run.begin(0))
        present = np.flatnonzero(run.ids.is_valid().to_numpy(zero_copy_only=False))
        hashes = _hashes(run.ids.drop_null())
        for index in present[self._seen.add(hashes)].tolist():
            self._confirm(run, index)

    def _ascends(self, ids: Ids) -> bool:
        """Whether these ids, none missing, go on ascending; the last of them is held."""
        if self._last is not None:
            ids = pa.concat_arrays([self._last, ids])
        self._last = ids[-1:]
        return pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py() is True

    def _hashed(self, end: Position) -> _Seen:
        seen = _Seen()
        for ids, _ in self._before(end):
            seen.add(_hashes(ids))
        return seen

    def _before(self, end: Position) -> Iterator[tuple[Ids, Run]]:
        """The ids of the sequences that begin before `end`, those that are missing left out."""
        for run in self._read():
            earlier = (run.files < end.file) | ((run.files == end.file) & (run.rows < end.row))
            yield run.ids.slice(0, int(earlier.sum())).drop_null(), run
            if not earlier.all():
                return

    def _confirm(self, run: Run, index: int) -> None:
        """Raises if the sequence's very id came before."""
        place = run.begin(index)
        sought = run.ids[index]
        for ids, earlier in self._before(place):
            if pc.index(ids, sought).as_py() >= 0:
                first = earlier.begin(pc.index(earlier.ids, sought).as_py())
                raise InvalidLayout(
                    f"sequence {sought.as_py()!r} began in "
                    f"{self._files[first.file].place(first.row)} and comes again after others; "
                    f"the rows of a sequence lie together: sort the input by {self._id_column!r}",
                    self._files[place.file].place(place.row, self._id_column),
                )


class _Seen:
    """A set of hashes, 8 bytes each: sorted arrays, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._sorted: list[Hashes] = []

    def add(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Adds them; which of them were there, or are there twice."""
        known = np.zeros(len(hashes), bool)
        for array in self._sorted:
            places = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
            known |= array[places] == hashes
        order = np.argsort(hashes, kind="stable")
        new = hashes[order]
        known[order[1:]] |= new[1:] == new[:-1]
        while self._sorted and len(self._sorted[-1]) < 2 * len(new):
            new = np.sort(np.concatenate([self._sorted.pop(), new]))
        if len(new):
            self._sorted.append(new)
        return known


def _hashes(ids: Ids) -> Hashes:
    return np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))

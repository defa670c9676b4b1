"""The golden set: the parity certificate that an artifact carries, and its proof.

A golden set is a pool of sequences with torch's own answers for each, and cases: the
companies in which the pool's sequences are run. Every case must give every sequence torch's
answer within the tolerance, and all cases together the same answer bit for bit. Of a sequence
that is not finite torch may have no answer but NaN; then only the second holds. Whoever
publishes and whoever serves prove the same thing, each with a session of their own.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.graph import Array, GraphRunner, State
from seqserve.ragged import RaggedBatch

MAX_BYTES = 1 << 30
"""Of all arrays of a set, unpacked, and of the padded batch of a case: a file of a few kilobytes
may claim any number."""


@dataclass(frozen=True)
class Case:
    """A company in which sequences of the pool are run: one batch, whole or in pieces."""

    name: str
    """What the case varies, for messages."""
    rows: NDArray[np.int64]
    """(batch,), indices into the pool."""
    padding_steps: int = 0
    """Steps of padding beyond the longest row."""
    garbage: float = 0.0
    """Scale of the random numbers that fill the padding."""
    chunk_steps: int = 0
    """Steps of each piece; 0 runs the sequences whole."""


@dataclass(frozen=True)
class GoldenSet:
    """Sequences, torch's answers for them, and the companies to run them in."""

    pool: RaggedBatch
    logits: Array
    """(sequences, classes), torch's for each sequence on its own."""
    probabilities: Array
    """(sequences, classes), likewise."""
    cases: Sequence[Case]

    def save(self, path: Path) -> None:
        """Writes the set as an .npz file."""
        arrays: dict[str, Any] = {
            "values": self.pool.values,
            "lengths": self.pool.lengths,
            "logits": self.logits,
            "probabilities": self.probabilities,
            "case_names": np.array([case.name for case in self.cases]),
            "case_sizes": np.array([len(case.rows) for case in self.cases], np.int64),
            "case_rows": np.concatenate([case.rows for case in self.cases]),
            "case_padding_steps": np.array([c.padding_steps for c in self.cases], np.int64),
            "case_garbage": np.array([c.garbage for c in self.cases], np.float32),
            "case_chunk_steps": np.array([c.chunk_steps for c in self.cases], np.int64),
        }
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> GoldenSet:
        """Reads what `save` wrote.

        Raises:
            InvalidArtifact: the file is missing, damaged, no golden set or too large.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InvalidArtifact(f"{path}: not a golden set: {error}") from error
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> GoldenSet:
        """The set in a file that was read already, as one whose sha256 is to hold has to be.

        Raises:
            InvalidArtifact: as `load`.
        """
        try:
            return cls._from_arrays(_unpacked(content))
        # A damaged zip raises whatever its reader stumbles over, zlib.error among it.
        except Exception as error:
            raise InvalidArtifact(f"{path}: not a golden set: {error}") from error

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> GoldenSet:
        pool = RaggedBatch(
            np.asarray(arrays["values"], np.float32), np.asarray(arrays["lengths"], np.int64)
        )
        ends = np.cumsum(arrays["case_sizes"])
        case_rows = np.split(np.asarray(arrays["case_rows"], np.int64), ends[:-1])
        for rows in case_rows:
            if not len(rows) or rows.min() < 0 or rows.max() >= len(pool):
                raise ValueError("a case names a sequence that the pool does not have")
        cases = tuple(
            Case(str(name), rows, int(padding_steps), float(garbage), int(chunk_steps))
            for name, rows, padding_steps, garbage, chunk_steps in zip(
                arrays["case_names"],
                case_rows,
                arrays["case_padding_steps"],
                arrays["case_garbage"],
                arrays["case_chunk_steps"],
                strict=True,
            )
        )
        logits = np.asarray(arrays["logits"], np.float32)
        probabilities = np.asarray(arrays["probabilities"], np.float32)
        if not len(logits) == len(probabilities) == len(pool) or not cases:
            raise ValueError("the answers are not one for each sequence, or there are no cases")
        if logits.ndim != 2 or logits.shape != probabilities.shape:
            raise ValueError("logits and probabilities are not (sequences, classes)")
        for case in cases:
            _check_size(case, pool)
        return cls(pool, logits, probabilities, cases)


def _unpacked(content: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of an .npz file. `np.load` would allocate whatever a header claims."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = packed.infolist()
        total = sum(member.file_size for member in members)
        if total > MAX_BYTES:
            raise ValueError(f"{total} bytes unpacked; at most {MAX_BYTES} are read")
        for member in members:  # of the others, a few bytes may become any number at once
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is packed in a way that is not read")
        return {
            member.filename.removesuffix(".npy"): _array(packed.read(member), member.filename)
            for member in members
        }


def _array(content: bytes, name: str) -> NDArray[np.generic]:
    """The array of an .npy file."""
    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(buffer)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    if math.prod(shape) * dtype.itemsize != len(content) - buffer.tell():
        raise ValueError(f"{name} has not the numbers that its header claims")
    numbers = np.frombuffer(content, dtype, offset=buffer.tell())
    return numbers.reshape(shape, order="F" if fortran_order else "C")


def _check_size(case: Case, pool: RaggedBatch) -> None:
    steps = int(pool.lengths[case.rows].max()) + case.padding_steps
    if case.padding_steps < 0 or case.chunk_steps < 0:
        raise ValueError(f"case {case.name!r} has steps below 0")
    if 4 * len(case.rows) * steps * pool.features > MAX_BYTES:
        raise ValueError(f"case {case.name!r} is a batch of more than {MAX_BYTES} bytes")


@dataclass(frozen=True)
class Proof:
    """What running a golden set showed."""

    max_difference: float
    """Largest absolute difference to torch's logits."""
    worst_case: str
    """The case it was found in, and the sequence."""
    bit_equal: bool
    """Whether every case gave a sequence the same logits, bit for bit."""
    unequal_case: str
    """The first case that did not, and the sequence; empty where all did."""
    sequences: int
    cases: int


def prove(golden: GoldenSet, run: GraphRunner) -> Proof:
    """Runs every case of the golden set and compares the answers."""
    reference = np.full_like(golden.logits, np.nan)
    seen = np.zeros(len(golden.pool), bool)
    unanswered = _unanswered(golden)
    max_difference, worst_case, unequal_case = -1.0, "", ""
    for index, case in enumerate(golden.cases):
        logits, probabilities = _run_case(golden.pool, case, np.random.default_rng(index), run)
        difference = np.maximum(
            np.abs(logits - golden.logits[case.rows]).max(axis=1),
            np.abs(probabilities - golden.probabilities[case.rows]).max(axis=1),
        )
        difference = np.where(np.isnan(difference), np.inf, difference)
        difference[unanswered[case.rows]] = 0.0
        row = int(difference.argmax())
        if difference[row] > max_difference:
            max_difference, worst_case = float(difference[row]), _place(golden, case, row)
        first = ~seen[case.rows]
        reference[case.rows[first]] = logits[first]
        seen[case.rows] = True
        unequal = np.flatnonzero((_bits(logits) != _bits(reference[case.rows])).any(axis=1))
        if len(unequal) and not unequal_case:
            unequal_case = _place(golden, case, int(unequal[0]))
    return Proof(
        max_difference=max_difference,
        worst_case=worst_case,
        bit_equal=not unequal_case,
        unequal_case=unequal_case,
        sequences=len(golden.pool),
        cases=len(golden.cases),
    )


def require(proof: Proof, tolerance: float, *, bit_equal: bool) -> None:
    """Refuses a proof that does not hold.

    Args:
        proof: What running the golden set showed.
        tolerance: Largest absolute difference accepted.
        bit_equal: Whether the cases must agree bit for bit: true on CPU in float32.

    Raises:
        GoldenMismatch: it does not hold; says where.
    """
    if not proof.max_difference <= tolerance:
        raise GoldenMismatch(
            f"differs from torch by {proof.max_difference:.3g} in {proof.worst_case}; "
            f"at most {tolerance:.3g} is accepted"
        )
    if bit_equal and not proof.bit_equal:
        raise GoldenMismatch(
            f"a sequence's logits depend on its company: {proof.unequal_case} differs "
            "from an earlier case"
        )


def _run_case(
    pool: RaggedBatch,
    case: Case,
    rng: np.random.Generator,
    run: GraphRunner,
) -> tuple[Array, Array]:
    batch = pool.take(case.rows)
    time = int(batch.lengths.max()) + case.padding_steps
    values = batch.padded(time)
    if case.garbage:
        padding = np.arange(time) >= batch.lengths[:, None]
        values[padding] = case.garbage * rng.standard_normal(
            (int(padding.sum()), batch.features), np.float32
        )
    if not case.chunk_steps:
        outputs = run(values, batch.lengths.astype(np.int32), None)
        return outputs.logits, outputs.probabilities
    return _run_in_chunks(values, batch.lengths, case.chunk_steps, run)


def _run_in_chunks(
    values: Array,
    lengths: NDArray[np.int64],
    chunk_steps: int,
    run: GraphRunner,
) -> tuple[Array, Array]:
    """Rows leave at the border after their last step: a row of no steps must not be run."""
    alive = np.arange(len(lengths))
    state: State | None = None
    answers: dict[int, tuple[Array, Array]] = {}
    for start in range(0, int(lengths.max()), chunk_steps):
        staying = lengths[alive] > start
        if state is not None:
            state = run.take_rows(state, np.flatnonzero(staying))
        alive = alive[staying]
        steps = np.minimum(lengths[alive] - start, chunk_steps).astype(np.int32)
        outputs = run(values[alive, start : start + chunk_steps], steps, state)
        state = outputs.state
        for row, logits, probabilities in zip(
            alive.tolist(), outputs.logits, outputs.probabilities, strict=True
        ):
            answers[row] = (logits, probabilities)
    ordered = [answers[row] for row in range(len(lengths))]
    return np.stack([logits for logits, _ in ordered]), np.stack([p for _, p in ordered])


def _unanswered(golden: GoldenSet) -> NDArray[np.bool_]:
    """(sequences,), those that are not finite and to which torch's answer is not either."""
    finite = np.array([bool(np.isfinite(sequence).all()) for sequence in golden.pool])
    return ~finite & ~np.isfinite(golden.logits).all(axis=1)


def _bits(numbers: Array) -> NDArray[np.uint32]:
    """The numbers' bits: 0.0 and -0.0 are equal, but not bit for bit; every NaN is the same."""
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).view(np.uint32)


def _place(golden: GoldenSet, case: Case, row: int) -> str:
    sequence = int(case.rows[row])
    return f"case {case.name!r}, sequence {sequence} of {golden.pool.lengths[sequence]} steps"

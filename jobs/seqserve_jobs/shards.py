"""Shards of the output: a block of the input each, whoever writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa

from seqserve_data.stream.block import Block, Position
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.errors import EngineError, OutputError
from seqserve_jobs.options import JobOptions
from seqserve_jobs.output import Output
from seqserve_jobs.reasons import counted, merged
from seqserve_jobs.rows import rows


@dataclass(frozen=True)
class Shard:
    """The record that a shard is done."""

    index: int
    begin: Position
    end: Position
    sequences: int
    """Good and bad."""
    refused: Mapping[str, int]
    """How many of them, by reason."""
    steps: int
    """Of those that were answered."""
    size: int
    """Of the part, in bytes."""
    sha256: str
    """Of the part."""

    @classmethod
    def from_bytes(cls, content: bytes) -> Shard:
        """The one that a record's file holds."""
        read = json.loads(content)
        return cls(**{**read, "begin": Position(*read["begin"]), "end": Position(*read["end"])})

    def to_bytes(self) -> bytes:
        """For the record's file."""
        places = {"begin": list(_place(self.begin)), "end": list(_place(self.end))}
        return json.dumps({**asdict(self), **places}).encode()


@dataclass(frozen=True)
class Totals:
    """Shards in sum."""

    shards: int
    sequences: int
    refused: Mapping[str, int]
    """How many of them, by reason."""
    steps: int
    sha256: str | None = None
    """Of the file made of the parts; None where none is."""

    @classmethod
    def of(cls, shards: Collection[Shard]) -> Totals:
        """Of some shards."""
        return cls(
            shards=len(shards),
            sequences=sum(shard.sequences for shard in shards),
            refused=merged(shard.refused for shard in shards),
            steps=sum(shard.steps for shard in shards),
        )


@dataclass(frozen=True)
class ShardWriter:
    """Makes parts of blocks and answers. Can be pickled, and sent to whoever has those."""

    output: Output
    model: Model
    options: JobOptions

    def write(self, index: int, block: Block, scores: Scores | None) -> Shard:
        """Makes a shard's part, and writes it."""
        shard, part = self.make(index, block, scores)
        self.put(shard, part)
        return shard

    def make(self, index: int, block: Block, scores: Scores | None) -> tuple[Shard, bytes]:
        """Makes a shard's part, and the record that it is done; writes neither.

        Args:
            index: The shard's number.
            block: Its sequences.
            scores: The answers to the good ones; None where there are none.

        Raises:
            EngineError: sequences and answers are not as many.
        """
        _check(index, block, scores)
        table = rows(block, scores, self.model, self.options)
        try:
            part = self.output.part_form.encode(table, index == 0)
        # Python has no times beyond the year 9999, and says so by one of the others.
        except (pa.ArrowException, OverflowError, ValueError) as error:
            raise OutputError(
                f"{self.output.url}: a column cannot be written as "
                f"{self.output.suffix or self.output.part_form.suffix}: {error}"
            ) from error
        shard = Shard(
            index=index,
            begin=block.begin,
            end=block.end,
            sequences=len(block),
            refused=counted(block.faults.values()),
            steps=block.sequences.steps if block.sequences is not None else 0,
            size=len(part),
            sha256=hashlib.sha256(part).hexdigest(),
        )
        return shard, part

    def put(self, shard: Shard, part: bytes) -> None:
        """Writes a part, then its record.

        Raises:
            OutputError: it cannot be written; then there is no record.
        """
        self.output.files.put(self.output.part(shard.index), part)
        self.output.files.put(self.output.record(shard.index), shard.to_bytes())


def _check(index: int, block: Block, scores: Scores | None) -> None:
    """Nothing may get lost on the way, least of all unnoticed."""
    good, answered = len(block.good), 0 if scores is None else len(scores.logits)
    if good != answered or good + len(block.faults) != len(block):
        raise EngineError(
            f"shard {index}: of {len(block)} sequences {answered} were answered and "
            f"{len(block.faults)} refused; nothing of it was written"
        )


def _place(position: Position) -> tuple[int, int]:
    return position.file, position.row

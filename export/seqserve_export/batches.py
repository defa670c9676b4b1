"""Batches of like lengths, packed: no step is computed that no sequence has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import PackedSequence

from seqserve_export.examples import Examples

_BATCHES_A_BUCKET = 8


@dataclass(frozen=True)
class Batch:
    """Some examples, longest first."""

    steps: PackedSequence
    """The standardised steps, by time and then by row."""
    targets: Tensor
    """(rows,), the class of each."""

    def __len__(self) -> int:
        """Rows in the batch."""
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        # The sizes stay on the CPU, where torch wants them.
        steps = self.steps._replace(data=self.steps.data.to(device))
        return Batch(steps, self.targets.to(device))


def draw(lengths: Tensor, batch_size: int, generator: Generator) -> list[Tensor]:
    """One epoch's batches, as indices: every sequence once, among others of like length.

    The sequences are shuffled and cut into buckets of eight batches; each bucket is sorted by
    length and cut into batches, as equal in size as can be, which are shuffled in turn.

    Args:
        lengths: (sequences,), steps of each.
        batch_size: Sequences in the largest batch.
        generator: Of the shuffling.
    """
    batches: list[Tensor] = []
    shuffled = torch.randperm(len(lengths), generator=generator)
    for bucket in torch.split(shuffled, batch_size * _BATCHES_A_BUCKET):
        longest_first = bucket[torch.argsort(lengths[bucket], descending=True, stable=True)]
        batches += longest_first.tensor_split(-(-len(bucket) // batch_size))
    order = torch.randperm(len(batches), generator=generator)
    return [batches[index] for index in order.tolist()]


def by_length(lengths: Tensor, rows: int, steps: int) -> Iterator[Tensor]:
    """All sequences in batches of indices, longest first.

    Args:
        lengths: (sequences,), steps of each.
        rows: Sequences in the largest batch.
        steps: In the largest batch, counting every row as long as the longest; a sequence that
            is longer is alone.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    while len(order):
        size = max(1, min(rows, steps // int(lengths[order[0]])))
        yield order[:size]
        order = order[size:]


def pack(examples: Examples, rows: Tensor) -> Batch:
    """The examples at `rows`, which are in order of descending length."""
    lengths = examples.lengths[rows]
    time = torch.arange(int(lengths[0]))[:, None]
    alive = time < lengths
    steps = (examples.offsets[rows] + time)[alive]
    return Batch(PackedSequence(examples.values[steps], alive.sum(dim=1)), examples.targets[rows])

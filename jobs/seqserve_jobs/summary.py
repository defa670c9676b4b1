"""What a job did, in figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Summary:
    """The job's figures; those of this run alone are named so, the others are of all its runs."""

    model: str
    version: int
    digest: str
    """sha256 of the model's manifest.json."""
    output: str
    """As the job was told."""
    files: tuple[str, ...]
    """What was written: the file, or the parts."""
    sequences: int = 0
    """Read; each is scored or refused."""
    scored: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """How many sequences, by the reason why."""
    steps: int = 0
    """Of the sequences scored."""
    shards: int = 0
    shards_done_before: int = 0
    """By earlier runs."""
    finished: bool = False
    """Whether every sequence of the input has its row."""
    seconds: float = 0.0
    """Of this run, from its beginning to its end."""
    sequences_per_s: float = 0.0
    """Of this run: those that it read and did not find done."""
    useful_step_fraction: float | None = None
    """Of this run: steps asked for ÷ steps computed; None where the engine does not say."""

    @property
    def refused_in_all(self) -> int:
        """Sequences that have no answer."""
        return sum(self.refused.values())

    @property
    def nothing_to_do(self) -> bool:
        """Whether an earlier run had finished."""
        return self.finished and self.shards == self.shards_done_before

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "refused": dict(self.refused), "files": list(self.files)}

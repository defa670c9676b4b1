"""What a job asks of whoever answers its sequences."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from seqserve.ragged import RaggedBatch
from seqserve.v1.manifest_pb2 import ModelManifest


@dataclass(frozen=True)
class Model:
    """The version that answers a job, from its beginning to its end."""

    name: str
    version: int
    digest: str
    """sha256 of its manifest.json, 64 hexadecimal digits."""
    labels: tuple[str, ...]
    """The classes, in the order of the columns."""
    features: int
    """Features a step."""
    feature_names: tuple[str, ...]
    """One a feature; empty where the model does not say."""
    max_steps: int
    """The longest sequence it takes."""
    admits_non_finite: bool
    """Whether it takes NaN and infinities."""

    @classmethod
    def of(cls, manifest: ModelManifest, digest: str) -> Model:
        """What a manifest says of it.

        Args:
            manifest: As published.
            digest: The sha256 of its file.
        """
        features = manifest.input.features
        return cls(
            name=manifest.name,
            version=manifest.version,
            digest=digest,
            labels=tuple(manifest.labels),
            features=features.size,
            feature_names=tuple(features.names),
            max_steps=manifest.limits.max_steps,
            admits_non_finite=features.admit_non_finite,
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """The answers to n sequences, in their order."""

    logits: NDArray[np.float32]
    """(n, classes)."""
    probabilities: NDArray[np.float32]
    """(n, classes)."""
    computed_steps: int | None = None
    """Rows by steps that were computed for them, padding included; None where nobody counts."""


class Engine(Protocol):
    """Answers batches of sequences that the model takes. A context manager."""

    @property
    def model(self) -> Model:
        """Who answers."""
        ...

    @property
    def ahead(self) -> int:
        """How many batches should be under way at a time, so that nobody waits for the next."""
        ...

    def submit(self, batch: RaggedBatch) -> Future[Scores]:
        """Begins to answer; returns at once, however much is under way.

        Args:
            batch: A shard's sequences, each of which the model takes.

        Returns:
            The answers, bit for bit those of a batch of one; or a JobError.
        """
        ...

    def close(self) -> None:
        """Gives up what is under way, and lets go of all it holds."""
        ...

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        ...

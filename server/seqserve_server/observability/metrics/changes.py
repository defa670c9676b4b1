"""What became of the versions of the repository on this server, counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from seqserve.errors import ContractError, GoldenMismatch
from seqserve.golden import Proof
from seqserve_server.errors import CannotStart, ServerError
from seqserve_server.models.loading import NotTriedError
from seqserve_server.models.repository import Load
from seqserve_server.models.served_model import ServedModel

UNFORESEEN = "Unforeseen"
"""The reason where it is no error of ours."""

HELD, FAILED, NOT_RUN = "held", "failed", "not run"
"""What became of a golden set."""


@dataclass
class Counts:
    """How often, since the start."""

    looks: Counter[bool] = field(default_factory=Counter)
    """Looks at the repository, by whether it could be read."""
    loads: Counter[str] = field(default_factory=Counter)
    """Versions that became ready, by model."""
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Versions that did not, by model and reason."""


class Changes:
    """Looks at the repository, and what became of the versions found. Any thread may tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._proofs: dict[tuple[str, int], Proof | str] = {}

    def looked(self, *, failed: bool = False) -> None:
        """The repository was looked at: at the start, by a poll, for an operator."""
        with self._lock:
            self._counts.looks[not failed] += 1

    def loaded(self, model: ServedModel, proof: Proof) -> None:
        """A version was proved, and is ready."""
        with self._lock:
            self._counts.loads[model.name] += 1
            self._proofs[model.name, model.version] = proof

    def refused(self, name: str, version: int, error: Exception) -> None:
        """A version was refused: damaged, not proved, not signed."""
        ours = isinstance(error, ContractError | ServerError)
        with self._lock:
            self._counts.refusals[name, type(error).__name__ if ours else UNFORESEEN] += 1
            self._proofs[name, version] = FAILED if isinstance(error, GoldenMismatch) else NOT_RUN

    def counting(self, load: Load) -> Load:
        """The same, but told here."""

        def counted(folder: Path) -> tuple[ServedModel, Proof]:
            try:
                model, proof = load(folder)
            except (CannotStart, NotTriedError):  # none of the version's faults
                raise
            except Exception as error:
                self.refused(folder.parent.name, int(folder.name), error)
                raise
            self.loaded(model, proof)
            return model, proof

        return counted

    def counts(self) -> Counts:
        """All that was told so far."""
        with self._lock:
            counts = self._counts
            return Counts(counts.looks.copy(), counts.loads.copy(), counts.refusals.copy())

    def proofs(self, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], Proof | str]:
        """What the golden sets of these versions showed; what is known of others is forgotten."""
        with self._lock:
            for gone in self._proofs.keys() - versions:
                del self._proofs[gone]
            return {version: self._proofs.get(version, NOT_RUN) for version in versions}

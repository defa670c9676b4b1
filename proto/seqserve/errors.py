"""What can be wrong with something that crosses a border between rooms.

ContractError
├── InvalidRagged      values and lengths that do not make a ragged batch
├── InvalidArtifact    a folder that is not a sound artifact
│   ├── GoldenMismatch a model whose answers are not those it was published with
│   └── InvalidSignature a manifest that nobody trusted has signed
└── InvalidKey         a file that holds no key to sign or to check with
"""

from __future__ import annotations


class ContractError(ValueError):
    """Base of every error of this package."""


class InvalidRagged(ContractError):
    """Values and lengths that do not make a ragged batch.

    Args:
        message: What was given, what is allowed.
        field: The offending field of `RaggedBatch`: `values` or `lengths`.
        sequence: Index of the offending sequence, None where it concerns the whole batch.
    """

    def __init__(self, message: str, *, field: str, sequence: int | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.sequence = sequence


class InvalidArtifact(ContractError):
    """A folder that is not a sound artifact: something missing, damaged or contradictory."""


class GoldenMismatch(InvalidArtifact):
    """A model whose answers here are not those it was published with."""


class InvalidSignature(InvalidArtifact):
    """A manifest that nobody trusted has signed."""


class InvalidKey(ContractError):
    """A file that holds no key to sign with, or to check signatures with."""

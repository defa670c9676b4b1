"""What a call of `classify` gives: an answer for each sequence, in order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from seqserve.errors import InvalidRagged
from seqserve.ragged import decode_matrix
from seqserve.v1.classifier_pb2 import AdvanceResponse, ClassifyResponse
from seqserve_client.batching import Piece
from seqserve_client.errors import ProtocolError, ReplicasDisagree, Violation
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.status import invalid_sequences, of_sequence

if TYPE_CHECKING:
    import pandas
    import pyarrow

Column = list[str] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one sequence."""

    label: str
    """The most probable label."""
    probability: float
    """Its probability."""
    labels: tuple[str, ...]
    """(columns,), the labels that `probabilities` and `logits` are of."""
    probabilities: NDArray[np.float32]
    """(columns,)."""
    logits: NDArray[np.float32]
    """(columns,), before temperature scaling."""


@dataclass(frozen=True, eq=False)
class Classification:
    """The answers to a batch of sequences, in their order.

    As a sequence of `Answer`, it has a length and can be indexed, sliced and iterated over.
    """

    labels: tuple[str, ...]
    """(sequences,), the most probable label of each."""
    probabilities: NDArray[np.float32]
    """(sequences, classes), or (sequences, top_k) where `top_k` was asked for. Read-only."""
    logits: NDArray[np.float32]
    """Of the same shape, before temperature scaling. Read-only."""
    classes: tuple[str, ...]
    """(classes,), the labels of the columns; empty where `top_k` was asked for."""
    top_labels: tuple[tuple[str, ...], ...]
    """(sequences, top_k), the most probable first; empty where `top_k` was not asked for."""
    model_name: str
    """The model that answered."""
    model_version: int
    """The version that answered."""
    model_digest: str
    """sha256 of the artifact's manifest, which names the model exactly."""
    invalid: tuple[Violation, ...] = ()
    """The sequences without an answer, by index, and why: their labels are empty, their
    probabilities and logits NaN. None unless `on_invalid` was to answer the rest."""

    def __len__(self) -> int:
        """Sequences answered."""
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Answer: ...

    @overload
    def __getitem__(self, index: slice) -> Classification: ...

    def __getitem__(self, index: int | slice) -> Answer | Classification:
        """The answer to one sequence, or the answers to a slice of them."""
        if isinstance(index, slice):
            return replace(
                self,
                labels=self.labels[index],
                probabilities=self.probabilities[index],
                logits=self.logits[index],
                top_labels=self.top_labels[index],
                invalid=self._invalid_among(range(len(self))[index]),
            )
        label = self.labels[index]
        columns = self.top_labels[index] if self.top_labels else self.classes
        probabilities = self.probabilities[index]
        return Answer(
            label,
            float(probabilities[columns.index(label)]) if label in columns else math.nan,
            columns,
            probabilities,
            self.logits[index],
        )

    def alone(self, index: int) -> Classification:
        """The answer to one sequence as if there had been no other, holding on to no other."""
        row = slice(index, index + 1)
        return Classification(
            labels=self.labels[row],
            probabilities=_frozen(self.probabilities[row].copy()),
            logits=_frozen(self.logits[row].copy()),
            classes=self.classes,
            top_labels=self.top_labels[row],
            model_name=self.model_name,
            model_version=self.model_version,
            model_digest=self.model_digest,
            invalid=self._invalid_among(range(index, index + 1)) if self.invalid else (),
        )

    def checked(self, on_invalid: OnInvalid) -> Classification:
        """Itself.

        Raises:
            InvalidSequences: some sequences have no answer, and were not to be left out.
        """
        if self.invalid and on_invalid is OnInvalid.REJECT:
            raise invalid_sequences(self.invalid)
        return self

    def _invalid_among(self, indices: Sequence[int]) -> tuple[Violation, ...]:
        """Those of some sequences, told by their places among these."""
        by_index = {violation.sequence: violation for violation in self.invalid}
        return tuple(
            of_sequence(by_index[index], place)
            for place, index in enumerate(indices)
            if index in by_index
        )

    def __iter__(self) -> Iterator[Answer]:
        """The answer to each sequence."""
        return (self[index] for index in range(len(self)))

    @property
    def confidence(self) -> NDArray[np.float32]:
        """(sequences,), the probability of each sequence's label."""
        best: NDArray[np.float32] = self.probabilities.max(axis=1)
        return best

    def columns(self) -> dict[str, Column]:
        """The answers as named columns of a table.

        `label` and `probability`; then, for each class, `probability:CLASS` and `logit:CLASS`
        or, with `top_k`, `logit` and, for each rank from 2 on, `label:RANK` and so on.
        """
        table: dict[str, Column] = {
            "label": list(self.labels),
            "probability": self.confidence,
        }
        if not self.top_labels:
            for kind, matrix in (("probability", self.probabilities), ("logit", self.logits)):
                table |= {f"{kind}:{name}": matrix[:, i] for i, name in enumerate(self.classes)}
            return table
        table["logit"] = self.logits[:, 0]
        for rank in range(1, self.probabilities.shape[1]):
            table[f"label:{rank + 1}"] = [row[rank] for row in self.top_labels]
            table[f"probability:{rank + 1}"] = self.probabilities[:, rank]
            table[f"logit:{rank + 1}"] = self.logits[:, rank]
        return table

    def to_pandas(self) -> pandas.DataFrame:
        """The `columns` as a pandas data frame, one row a sequence.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise _missing("pandas") from error
        return pandas.DataFrame(self.columns())

    def to_arrow(self) -> pyarrow.Table:
        """The `columns` as an Arrow table, one row a sequence.

        Raises:
            ModuleNotFoundError: pyarrow is not installed.
        """
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise _missing("pyarrow") from error
        return pyarrow.table({name: pyarrow.array(cells) for name, cells in self.columns().items()})


def merged(pieces: Sequence[Piece], answered: Mapping[int, ClassifyResponse]) -> Classification:
    """The answers to all pieces of a batch, as if it had been one request.

    Args:
        pieces: In order.
        answered: The response to each piece, by the piece's `first`.

    Raises:
        ProtocolError: a response does not fit its request.
        ReplicasDisagree: the pieces were answered by different artifacts.
    """
    parts = [
        read(answered[piece.first], sequences=len(piece.batch), top_k=piece.top_k)
        for piece in pieces
    ]
    first = parts[0]
    for part in parts:
        if (part.model_version, part.model_digest) != (first.model_version, first.model_digest):
            raise ReplicasDisagree(
                f"the replicas do not serve the same {first.model_name}: version "
                f"{first.model_version} of digest {first.model_digest} here, version "
                f"{part.model_version} of digest {part.model_digest} there"
            )
    if len(parts) == 1:
        return first
    return replace(
        first,
        labels=tuple(label for part in parts for label in part.labels),
        probabilities=_frozen(np.concatenate([part.probabilities for part in parts])),
        logits=_frozen(np.concatenate([part.logits for part in parts])),
        top_labels=tuple(row for part in parts for row in part.top_labels),
        invalid=tuple(
            of_sequence(violation, piece.first + (violation.sequence or 0))
            for piece, part in zip(pieces, parts, strict=True)
            for violation in part.invalid
        ),
    )


def read(
    response: ClassifyResponse | AdvanceResponse, *, sequences: int, top_k: int
) -> Classification:
    """A response as it came from the wire, checked against what was asked.

    Raises:
        ProtocolError: the response does not fit the request.
    """
    answers = response.answers
    labels, classes = tuple(answers.labels), tuple(answers.classes)
    width = max(1, top_k)
    columns = top_k or len(classes)
    try:
        probabilities = decode_matrix(answers.probabilities, sequences)
        logits = decode_matrix(answers.logits, sequences)
    except InvalidRagged as error:
        raise ProtocolError(f"an answer for {sequences} sequences was expected: {error}") from error
    if len(labels) != sequences * width or not (
        probabilities.shape == logits.shape == (sequences, columns)
    ):
        raise ProtocolError(
            f"answers for {sequences} sequences and {columns} classes were expected; "
            f"{len(labels)} labels, probabilities of shape {probabilities.shape} and "
            f"logits of shape {logits.shape} came"
        )
    invalid = _invalid(response, sequences)
    refused = {labels[violation.sequence or 0] for violation in invalid}
    if not top_k and not set(labels) - (refused & {""}) <= set(classes):
        raise ProtocolError(f"labels came that are not among the classes {list(classes)}")
    starts = range(0, len(labels), width) if top_k else ()
    return Classification(
        labels=labels[::width],
        probabilities=probabilities,
        logits=logits,
        classes=() if top_k else classes,
        top_labels=tuple(labels[start : start + width] for start in starts),
        model_name=response.model_name,
        model_version=response.model_version,
        model_digest=response.model_digest,
        invalid=invalid,
    )


def _invalid(response: ClassifyResponse | AdvanceResponse, sequences: int) -> tuple[Violation, ...]:
    if isinstance(response, AdvanceResponse) or not response.invalid:
        return ()
    indices = [each.index for each in response.invalid]
    if indices != sorted({*indices}) or indices[-1] >= sequences:
        raise ProtocolError(f"of {sequences} sequences, {indices} are said to be invalid")
    return tuple(Violation(each.description, each.field, each.index) for each in response.invalid)


def _frozen(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    matrix.setflags(write=False)
    return matrix


def _missing(library: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{library} is not installed. Get it with: pip install {library}", name=library
    )

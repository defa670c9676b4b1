"""A data set sent to a model, and the answers beside what is known of the sequences."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from seqserve.ragged import RaggedBatch
from seqserve_client.catalog import ModelDescription
from seqserve_client.classification import Classification
from seqserve_client.client import Client
from seqserve_client.errors import InvalidRequest, InvalidSequences
from seqserve_client.on_invalid import OnInvalid
from seqserve_client.service_class import ServiceClass
from seqserve_data import Dataset


@dataclass(frozen=True, eq=False)
class Scored:
    """A data set and a model's answers to it."""

    dataset: Dataset
    answers: Classification
    seconds: float
    """From the first request sent to the last answer read."""
    on_invalid: OnInvalid
    """Whether some sequences may have no answer."""

    @cached_property
    def refused(self) -> dict[int, str]:
        """The sequences that have none, by their place, and why."""
        return {
            violation.sequence: _with_id(violation.description, violation.sequence, self.dataset)
            for violation in self.answers.invalid
            if violation.sequence is not None
        }


def score(
    dataset: Dataset,
    client: Client,
    *,
    model: str,
    version: int,
    top_k: int,
    service_class: ServiceClass,
    on_invalid: OnInvalid,
    reorder: bool,
) -> Scored:
    """Classifies every sequence of a data set.

    Args:
        dataset: The sequences.
        client: Asks the server.
        model: The model's name.
        version: Its version; 0 for the newest that is served.
        top_k: How many classes to name for each sequence; 0 for all.
        service_class: How urgent the answers are.
        on_invalid: Whether bad sequences fail the whole set.
        reorder: Whether features that have names are brought into the model's order.

    Raises:
        SeqserveError: see `seqserve_client.errors`; refused sequences are named by their ids.
    """
    # Asking first also opens the connection, so that the time taken is that of the answers.
    described = client.describe(model, version)
    fitting = _fitted(dataset, described, reorder=reorder)
    start = time.perf_counter()
    try:
        answers = client.classify(
            fitting,
            model=model,
            version=described.status.version,
            top_k=top_k,
            service_class=service_class,
            on_invalid=on_invalid,
        )
    except InvalidSequences as error:
        raise InvalidSequences(_naming_id(error, dataset), error.violations) from error
    return Scored(dataset, answers, time.perf_counter() - start, on_invalid)


def _fitted(dataset: Dataset, described: ModelDescription, *, reorder: bool) -> RaggedBatch:
    """The sequences with the features of the model.

    Raises:
        InvalidRequest: they do not have them.
    """
    sequences, given = dataset.sequences, dataset.feature_names
    status, wanted = described.status, described.manifest.input.features
    if reorder and given and wanted.names:
        missing = [name for name in wanted.names if name not in given]
        if missing:
            raise InvalidRequest(
                f"{dataset.name}: has no feature {', '.join(missing)}, which {status.name} version "
                f"{status.version} takes; it has {', '.join(given)} (name them in the model's "
                "order with --features)"
            )
        columns = [given.index(name) for name in wanted.names]
        # A step's features lie side by side in memory, which a choice of columns undoes.
        sequences = replace(sequences, values=np.ascontiguousarray(sequences.values[:, columns]))
    if sequences.features != wanted.size:
        raise InvalidRequest(
            f"{dataset.name}: sequence {dataset.ids[0]!r} has {sequences.features} features a "
            f"step, as all have; {status.name} version {status.version} takes {wanted.size}"
        )
    return sequences


def _naming_id(error: InvalidSequences, dataset: Dataset) -> str:
    """The message with the file and, for the index of a sequence, the id it has there."""
    return f"{dataset.name}: {_with_id(str(error), error.violations[0].sequence, dataset)}"


def _with_id(text: str, index: int | None, dataset: Dataset) -> str:
    if index is None:
        return text
    return text.replace(f"sequence {index}", f"sequence {dataset.ids[index]!r}", 1)

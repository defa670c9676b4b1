"""The rows of a shard: answers beside ids and errors, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqserve_data.stream.block import Block
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.errors import JobError
from seqserve_jobs.on_error import OnError
from seqserve_jobs.options import JobOptions

KEPT_CLASH = "input_"
"""Before the name of a column handed through, where the output has one of that name."""


def rows(block: Block, scores: Scores | None, model: Model, options: JobOptions) -> pa.Table:
    """A row for each sequence, in order; none for the refused ones where they are skipped.

    Args:
        block: Sequences of an input.
        scores: The answers to the good ones; None where there are none.
        model: Who answered.
        options: Which columns.
    """
    shown = block.good if options.on_error is OnError.SKIP else np.arange(len(block))
    # Of each row, which answer is its own; -1 for none.
    answers = np.full(len(block), -1)
    answers[block.good] = np.arange(len(block.good))
    answers = answers[shown]
    places = pa.array(answers, pa.int64(), mask=answers < 0)
    columns = {
        "id": _fresh(block.ids, shown),
        **{
            name: column.take(places)
            for name, column in _answered(scores or _none(model), model, options).items()
        },
        "model_version": pa.repeat(pa.scalar(model.version, pa.int64()), len(shown)),
        "model_digest": pa.repeat(pa.scalar(model.digest), len(shown)),
        "error": _errors(block.faults, shown),
    }
    kept_names = names_kept(block.kept.column_names, columns)
    for name, column in zip(kept_names, block.kept.columns, strict=True):
        columns[name] = _fresh(column, shown)
    return pa.table(columns)


def names_kept(kept: Sequence[str], own: Sequence[str] | dict[str, Any]) -> list[str]:
    """What the columns handed through are called beside the output's own.

    Raises:
        JobError: two would have one name.
    """
    names = [KEPT_CLASH + name if name in own else name for name in kept]
    for name in names:
        if names.count(name) > 1 or name in own:
            raise JobError(f"two columns of the output would be called {name!r}; keep one of them")
    return names


def _answered(scores: Scores, model: Model, options: JobOptions) -> dict[str, pa.Array[Any]]:
    """The columns of answers, a row for each."""
    probabilities = scores.probabilities
    labels = pa.array(model.labels, pa.string())
    columns: dict[str, pa.Array[Any]] = {}
    if options.top_k:
        # As the server ranks them: of equals the first.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top_k]
        columns["label"] = labels.take(pa.array(best[:, 0], pa.int64()))
        columns["top_labels"] = _lists(labels.take(pa.array(best.ravel(), pa.int64())), len(best))
        columns["top_probabilities"] = _lists(
            pa.array(np.take_along_axis(probabilities, best, axis=1).ravel()), len(best)
        )
    else:
        columns["label"] = labels.take(pa.array(probabilities.argmax(axis=1), pa.int64()))
        for index, label in enumerate(model.labels):
            columns[f"probability_{label}"] = pa.array(
                np.ascontiguousarray(probabilities[:, index])
            )
    if options.logits:
        columns["logits"] = _lists(pa.array(scores.logits.ravel()), len(scores.logits))
    return columns


def _errors(faults: Mapping[int, str], shown: NDArray[np.int64]) -> pa.Array[Any]:
    if not faults:  # as good as always
        return pa.nulls(len(shown), pa.string())
    return pa.array([faults.get(index) for index in shown.tolist()], pa.string())


def _lists(values: pa.Array[Any], count: int) -> pa.Array[Any]:
    """As `count` lists of equal lengths."""
    width = len(values) // count if count else 0
    ends = pa.array(np.arange(count + 1) * width, pa.int32())
    return pa.ListArray.from_arrays(ends, values)


def _fresh(column: pa.Array[Any] | pa.ChunkedArray[Any], shown: NDArray[np.int64]) -> pa.Array[Any]:
    """Some rows of a column, in buffers of their own.

    How a file was read shows in what it gives: in chunks, in dictionaries, in what lies under
    nulls. It must not show in the output.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    return column.take(pa.array(shown, pa.int64()))


def _none(model: Model) -> Scores:
    """Answers to no sequences."""
    none = np.empty((0, len(model.labels)), np.float32)
    return Scores(none, none)

"""Scores what is in memory: tables, data frames, data sets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pyarrow as pa

from seqserve_data import Columns, Dataset
from seqserve_data.stream import Block, Input
from seqserve_data.stream.block import START
from seqserve_data.stream.rows import plain
from seqserve_jobs.engines.engine import Engine, Scores
from seqserve_jobs.job import check_faults, check_options, wanted_by
from seqserve_jobs.on_error import OnError
from seqserve_jobs.options import JobOptions
from seqserve_jobs.rows import rows


def score_table(
    table: Any,  # noqa: ANN401
    engine: Engine,
    *,
    columns: Columns | None = None,
    keep: Sequence[str] = (),
    top_k: int = 0,
    logits: bool = False,
    on_error: OnError = OnError.RECORD,
) -> pa.Table:
    """The scores of the sequences in a table, as `seqserve score` writes them for a file of it.

        with EmbeddedEngine(Path("models"), "speakers") as engine:
            scores = score_table(frame, engine).to_pandas()

    Args:
        table: One row a step, or one row a sequence with list columns: a `pyarrow.Table`, or
            whatever gives one by Arrow's C stream, as data frames do.
        engine: Answers; it can be used again.
        columns: Which column holds what; by default as for files.
        keep: Columns to hand through.
        top_k: How many classes to name; 0 for the probabilities of all.
        logits: Whether to give them.
        on_error: What becomes of sequences that the model cannot take.

    Returns:
        A row a sequence, in order.

    Raises:
        DataError: its columns are not what the model takes.
        BadSequence: there is one in it, and `on_error` is to fail.
        JobError: see `seqserve_jobs.errors`.
    """
    model = engine.model
    options = JobOptions(
        input=(),
        output="",
        columns=columns or Columns(),
        keep=tuple(keep),
        top_k=top_k,
        logits=logits,
        on_error=on_error,
    )
    check_options(options, model)
    read = pa.table(table)
    source = Input.of_table(read, options.columns, wanted=wanted_by(model), keep=options.keep)
    blocks = source.blocks(max_sequences=options.max_sequences, max_steps=options.max_steps)
    scored = [
        rows(block, scores, model, options) for block, scores in _answered(blocks, engine, on_error)
    ]
    return pa.concat_tables(scored or [rows(_no_block(source, read), None, model, options)])


def score_dataset(
    dataset: Dataset,
    engine: Engine,
    *,
    top_k: int = 0,
    logits: bool = False,
    on_error: OnError = OnError.RECORD,
) -> pa.Table:
    """The same of a data set, as `seqserve_data.read` gives it.

    Its labels, where it has them, are the column `input_label` beside the model's `label`.
    """
    labels = ("label",) if dataset.labels is not None else ()
    return score_table(
        _table(dataset), engine, keep=labels, top_k=top_k, logits=logits, on_error=on_error
    )


def _answered(
    blocks: Iterator[Block], engine: Engine, on_error: OnError
) -> Iterator[tuple[Block, Scores | None]]:
    """Blocks in order with the answers to their good sequences, `engine.ahead` under way."""
    under_way: deque[tuple[Block, Future[Scores] | None]] = deque()
    for block in blocks:
        check_faults(block, on_error)
        answer = engine.submit(block.sequences) if block.sequences is not None else None
        under_way.append((block, answer))
        if len(under_way) > engine.ahead:
            yield _awaited(*under_way.popleft())
    while under_way:
        yield _awaited(*under_way.popleft())


def _awaited(block: Block, answer: Future[Scores] | None) -> tuple[Block, Scores | None]:
    return block, answer.result() if answer is not None else None


def _no_block(source: Input, table: pa.Table) -> Block:
    """Of a table without rows."""
    layout = source.layout
    return Block(
        begin=START,
        end=START,
        ids=pa.array([], plain(table.schema.field(layout.id).type) if layout.id else pa.string()),
        good=np.empty(0, np.int64),
        sequences=None,
        faults={},
        kept=table.select(list(layout.kept)),
    )


def _table(dataset: Dataset) -> pa.Table:
    """One row a sequence: a list column for each feature that has a name, else one of steps."""
    sequences, names = dataset.sequences, dataset.feature_names
    columns: dict[str, pa.Array[Any]] = {"id": pa.array(dataset.ids, pa.string())}
    if dataset.labels is not None:
        columns["label"] = pa.array(dataset.labels, pa.string())
    if names:
        features = zip(names, sequences.values.T, strict=True)
        flat = {name: pa.array(np.ascontiguousarray(column)) for name, column in features}
    else:
        numbers = pa.array(sequences.values.ravel())
        flat = {"values": pa.FixedSizeListArray.from_arrays(numbers, sequences.features)}
    offsets = pa.array(sequences.offsets, pa.int64())
    for name, values in flat.items():
        columns[name] = pa.LargeListArray.from_arrays(offsets, values)
    return pa.table(columns)

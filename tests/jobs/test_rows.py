"""What stands in the rows of a shard."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seqserve_data.stream import Block, Position
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.errors import EngineError, JobError
from seqserve_jobs.forms import FORMS, Form
from seqserve_jobs.job import JobOptions
from seqserve_jobs.output import Output
from seqserve_jobs.reasons import MAX_KINDS, OTHERS, counted, merged
from seqserve_jobs.rows import rows
from seqserve_jobs.shards import ShardWriter
from seqserve_server.answers import answer

LABELS = ("a", "b", "c", "d")
MODEL = Model("m", 3, "0" * 64, LABELS, 2, (), 100, False)


def block(count: int, faults: dict[int, str], kept: pa.Table | None = None) -> Block:
    return Block(
        begin=Position(),
        end=Position(1, 0),
        ids=pa.array(range(count), pa.int64()),
        good=np.array([index for index in range(count) if index not in faults], np.int64),
        sequences=None,
        faults=faults,
        kept=kept if kept is not None else pa.table({"k": range(count)}).select([]),
    )


@given(
    probabilities=arrays(
        np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.sampled_from([0, 0.25, 1])
    ),
    top_k=st.integers(0, 4),
)
def test_classes_are_ranked_as_the_server_ranks_them_of_equals_the_first(
    probabilities: np.ndarray, top_k: int
) -> None:
    expected = answer(-probabilities, probabilities, LABELS, top_k)

    table = rows(
        block(len(probabilities), {}),
        Scores(-probabilities, probabilities),
        MODEL,
        JobOptions("in", "out", top_k=top_k),
    )

    if top_k:
        named = [label for row in table["top_labels"].to_pylist() for label in row or ()]
        assert named == expected.labels
        assert table["label"].to_pylist() == expected.labels[::top_k]
        shown = np.array(table["top_probabilities"].to_pylist()).reshape(-1, top_k)
        assert np.array_equal(shown, expected.probabilities)
    else:
        assert table["label"].to_pylist() == expected.labels


def test_a_shard_has_the_same_columns_whatever_became_of_its_sequences() -> None:
    scores = Scores(np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))
    options = JobOptions("in", "out", logits=True, top_k=2)

    good = rows(block(2, {}), scores, MODEL, options)
    bad = rows(block(2, {0: "is bad", 1: "is bad"}), None, MODEL, options)
    none = rows(block(0, {}), None, MODEL, options)

    assert good.schema == bad.schema == none.schema
    assert bad["logits"].null_count == 2


def test_answers_that_are_not_as_many_as_the_sequences_are_not_written(tmp_path: Path) -> None:
    writer = ShardWriter(
        Output.at(str(tmp_path / "out"), {}), MODEL, JobOptions("in", str(tmp_path / "out"))
    )
    scores = Scores(np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))

    with pytest.raises(EngineError, match="of 3 sequences 2 were answered and 0 refused"):
        writer.write(0, block(3, {}), scores)

    assert not list(tmp_path.iterdir())


def test_two_columns_of_one_name_are_refused() -> None:
    kept = pa.table({"label": [1], "input_label": [2]})

    with pytest.raises(JobError, match="would be called 'input_label'"):
        rows(block(1, {0: "is bad"}, kept), None, MODEL, JobOptions("in", "out"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.suffix)
def test_columns_of_any_type_are_handed_through(form: Form) -> None:
    kept = pa.table(
        {
            "time": pa.array([1_600_000_000_000_000], pa.timestamp("us", "UTC")),
            "list": pa.array([[0.1, None]], pa.list_(pa.float32())),
            "record": pa.array([{"a": 1.5, "b": float("nan")}]),
            "bytes": pa.array([b"\xff"]),
            "word": pa.array(['w"o,\nrd']).dictionary_encode(),
            "nothing": pa.nulls(1),
        }
    )
    table = rows(block(1, {0: "is bad"}, kept), None, MODEL, JobOptions("in", "out"))

    part = form.parts.encode(table, True)
    whole = BytesIO()
    form.join([part], whole)

    assert part == form.parts.encode(table, True)
    assert whole.getvalue()
    if form.suffix == ".jsonl":
        assert b'"time": "2020-09-13T12:26:40+00:00", "list": [0.1, null]' in part
        assert b'"record": {"a": 1.5, "b": null}, "bytes": "/w=="' in part


def test_reasons_are_counted_by_kind_without_what_is_of_one_sequence_alone() -> None:
    faults = [
        "step 3, feature 'a' is NaN",
        "step 17, feature 'b 2' is NaN",
        "has 1,200 steps; the model takes at most 1,024",
    ]

    assert counted(faults) == {
        "step …, feature … is NaN": 2,
        "has … steps; the model takes at most 1,024": 1,
    }


def test_reasons_beyond_what_people_read_are_counted_together() -> None:
    kinds = [f"reason {chr(97 + index // 26)}{chr(97 + index % 26)}" for index in range(80)]

    total = merged([counted([*kinds, *kinds]), counted(kinds)])

    assert len(total) == MAX_KINDS + 1
    assert sum(total.values()) == 240
    assert total[OTHERS] == 3 * (80 - MAX_KINDS)

"""How a session is called: a running sum stands in for the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.graph import LENGTHS, VALUES, GraphRunner, batch_axis
from seqserve.v1.manifest_pb2 import Graph, StateTensor

SUM = StateTensor(name="sum", dims=[-1, 2], initial=10.0)
COUNT = StateTensor(name="count", dims=[3, -1], initial=-1.0)


@dataclass
class Adder:
    """A session whose logits are the sums of a row's features so far, with two state tensors.

    `sum` has the batch axis first, `count` (the steps so far, three times over) has it last.
    """

    feeds: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[NDArray[np.float32]]:
        self.feeds.append(dict(input_feed))
        values, lengths = input_feed[VALUES], input_feed[LENGTHS]
        real = np.arange(values.shape[1]) < lengths[:, None]
        sums = np.where(real[:, :, None], values, 0).sum(axis=1, dtype=np.float32)
        outputs = {"logits": sums, "probabilities": 2 * sums}
        if "sum_in" in input_feed:
            total = input_feed["sum_in"] + sums
            count = input_feed["count_in"] + lengths.astype(np.float32)
            outputs = {"count_out": count, "sum_out": total, "logits": total}
            outputs["probabilities"] = 2 * total
        return [outputs[name] for name in output_names]


def graph(minimum_rows: int = 1) -> Graph:
    """A graph with state."""
    return Graph(minimum_rows=minimum_rows, state=[SUM, COUNT])


def ones(rows: int, time: int = 3) -> NDArray[np.float32]:
    """Values whose every number tells its row."""
    return np.ones((rows, time, 2), np.float32) * np.arange(1, rows + 1)[:, None, None]


@pytest.mark.parametrize(("tensor", "axis"), [(SUM, 0), (COUNT, 1)], ids=["first", "last"])
def test_the_batch_axis_is_where_the_manifest_says(tensor: StateTensor, axis: int) -> None:
    assert batch_axis(tensor) == axis


def test_a_run_without_state_begins_with_the_initial_values() -> None:
    session = Adder()
    outputs = GraphRunner(graph(), session.run)(ones(2), np.array([3, 1], np.int32))
    (feed,) = session.feeds
    assert set(feed) == {"values", "lengths", "sum_in", "count_in"}
    np.testing.assert_array_equal(feed["sum_in"], np.full((2, 2), 10, np.float32), strict=True)
    np.testing.assert_array_equal(feed["count_in"], np.full((3, 2), -1, np.float32), strict=True)
    assert outputs.logits.tolist() == [[13, 13], [12, 12]]
    assert outputs.probabilities.tolist() == [[26, 26], [24, 24]]
    assert outputs.state["count"].tolist() == [[2, 0]] * 3
    assert outputs.state["sum"].tolist() == outputs.logits.tolist()


@given(st.lists(st.integers(1, 9), min_size=1))
def test_every_run_without_state_begins_so_however_many_rows_it_has(runs: list[int]) -> None:
    session = Adder()
    run = GraphRunner(graph(), session.run)
    for rows in runs:
        run(ones(rows), np.ones(rows, np.int32))
        feed = session.feeds[-1]
        np.testing.assert_array_equal(feed["sum_in"], np.full((rows, 2), 10, "f4"), strict=True)
        np.testing.assert_array_equal(feed["count_in"], np.full((3, rows), -1, "f4"), strict=True)
        assert feed["sum_in"].flags.c_contiguous
        assert feed["count_in"].flags.c_contiguous


def test_a_run_goes_on_from_the_state_given() -> None:
    session = Adder()
    run = GraphRunner(graph(), session.run)
    first = run(ones(2), np.array([3, 1], np.int32))
    second = run(ones(2), np.array([1, 2], np.int32), first.state)
    assert session.feeds[1]["sum_in"] is first.state["sum"]
    assert session.feeds[1]["count_in"] is first.state["count"]
    assert second.logits.tolist() == [[14, 14], [16, 16]]
    assert second.state["count"].tolist() == [[3, 2]] * 3


def test_a_graph_without_state_is_fed_none() -> None:
    session = Adder()
    outputs = GraphRunner(Graph(minimum_rows=1), session.run)(ones(2), np.array([3, 1], np.int32))
    assert set(session.feeds[0]) == {"values", "lengths"}
    assert outputs.logits.tolist() == [[3, 3], [2, 2]]
    assert outputs.state == {}


@pytest.mark.parametrize(
    ("minimum_rows", "rows", "fed"), [(1, 1, 1), (2, 1, 2), (2, 2, 2), (2, 3, 3)]
)
def test_a_row_runs_with_a_twin_where_the_graph_asks_for_two(
    minimum_rows: int, rows: int, fed: int
) -> None:
    session = Adder()
    run = GraphRunner(graph(minimum_rows), session.run)
    lengths = np.arange(rows, 0, -1, dtype=np.int32)
    outputs = run(ones(rows), lengths)
    assert [len(session.feeds[0][name]) for name in ("values", "lengths", "sum_in")] == [fed] * 3
    assert session.feeds[0]["count_in"].shape == (3, fed)
    if fed > rows:
        for name in ("values", "lengths", "sum_in"):
            twins = session.feeds[0][name]
            np.testing.assert_array_equal(twins[0], twins[1])
    alone = GraphRunner(graph(), Adder().run)(ones(rows), lengths)
    np.testing.assert_array_equal(outputs.logits, alone.logits, strict=True)
    np.testing.assert_array_equal(outputs.probabilities, alone.probabilities, strict=True)
    for name in ("sum", "count"):
        np.testing.assert_array_equal(outputs.state[name], alone.state[name], strict=True)


def test_the_twin_has_the_rows_own_state() -> None:
    session = Adder()
    run = GraphRunner(graph(2), session.run)
    first = run(ones(1), np.array([3], np.int32))
    second = run(ones(1), np.array([2], np.int32), first.state)
    assert session.feeds[1]["sum_in"].tolist() == [[13, 13]] * 2
    assert session.feeds[1]["count_in"].tolist() == [[2, 2]] * 3
    assert second.logits.tolist() == [[15, 15]]
    assert second.state["count"].tolist() == [[4]] * 3


@given(st.integers(1, 5), st.data())
def test_take_rows_takes_from_the_batch_axis_of_each_tensor(rows: int, data: st.DataObject) -> None:
    run = GraphRunner(graph(), Adder().run)
    state = {
        "sum": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        "count": np.arange(rows * 3, dtype=np.float32).reshape(3, rows),
    }
    chosen = data.draw(st.lists(st.integers(0, rows - 1)))
    taken = run.take_rows(state, np.array(chosen, np.int64))
    assert taken["sum"].tolist() == [state["sum"][row].tolist() for row in chosen]
    assert taken["count"].T.tolist() == [state["count"][:, row].tolist() for row in chosen]

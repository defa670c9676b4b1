"""A sequence's logits are the same bits in any company, behind any padding, whole or in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seqserve.graph import GraphRunner, State
from seqserve_export.graph import build
from seqserve_export.network import Cell, Head

if TYPE_CHECKING:
    from tests.conftest import NetworkOptions, RandomModel
    from tests.export.conftest import OpenGraph

ROWS = 70
STEPS = 20
FEATURES = 3

# Sizes of hidden states and classes on both sides of what vector registers hold, so that every
# kernel's tail is run.
FORWARD: dict[str, NetworkOptions] = {
    "lstm, last": {"cell": "lstm", "hidden_size": 33, "classes": 9},
    "lstm, mean": {"cell": "lstm", "hidden_size": 17, "classes": 17, "head": "mean"},
    "lstm, max, 2 layers": {"cell": "lstm", "hidden_size": 8, "num_layers": 2, "head": "max"},
    "projected lstm, last, 2 layers": {
        "cell": "lstm",
        "hidden_size": 31,
        "proj_size": 5,
        "num_layers": 2,
    },
    "projected lstm, max": {"cell": "lstm", "hidden_size": 15, "proj_size": 9, "head": "max"},
    "gru, last": {"cell": "gru", "hidden_size": 64, "classes": 2},
    "gru, mean, no bias": {"cell": "gru", "hidden_size": 7, "bias": False, "head": "mean"},
    "rnn-tanh, last": {"cell": "rnn-tanh", "hidden_size": 19, "classes": 33},
    "rnn-relu, mean": {"cell": "rnn-relu", "hidden_size": 16, "head": "mean"},
}
BIDIRECTIONAL: dict[str, NetworkOptions] = {
    "lstm both ways, last": {"cell": "lstm", "hidden_size": 9, "classes": 65},
    "lstm both ways, mean": {"cell": "lstm", "hidden_size": 24, "head": "mean"},
    "projected lstm both ways, max, 2 layers": {
        "cell": "lstm",
        "hidden_size": 13,
        "proj_size": 4,
        "num_layers": 2,
        "head": "max",
    },
    "gru both ways, mean, 2 layers": {
        "cell": "gru",
        "hidden_size": 32,
        "num_layers": 2,
        "head": "mean",
    },
    "rnn-tanh both ways, last": {"cell": "rnn-tanh", "hidden_size": 10},
    "rnn-relu both ways, max": {"cell": "rnn-relu", "hidden_size": 18, "head": "max"},
}
for options in BIDIRECTIONAL.values():
    options["bidirectional"] = True
EVERY = FORWARD | BIDIRECTIONAL

garbage = st.sampled_from([0.0, 1e4, -1e30, np.inf, np.nan])


@dataclass(frozen=True)
class Opened:
    """A graph, sequences, and what it answers to each of them on its own."""

    run: GraphRunner
    values: NDArray[np.float32]
    lengths: NDArray[np.int32]
    alone: NDArray[np.float32]

    def require(self, rows: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Fails unless the logits of `rows` are bit for bit those of each sequence alone."""
        different = np.flatnonzero(
            (logits.view(np.int32) != self.alone[rows].view(np.int32)).any(1)
        )
        assert not len(different), f"rows {different}, lengths {self.lengths[rows[different]]}"


OpenNetwork = Callable[[str], Opened]


@pytest.fixture(scope="module")
def open_network(random_model: RandomModel, open_graph: OpenGraph) -> OpenNetwork:
    @cache
    def open_once(name: str) -> Opened:
        run = open_graph(build(random_model(**EVERY[name]).network))
        rng = np.random.default_rng(0)
        lengths = rng.integers(1, STEPS, ROWS, endpoint=True).astype(np.int32)
        values = rng.normal(0, 5, (ROWS, STEPS, FEATURES)).astype(np.float32)
        alone = [run(values[[row], : lengths[row]], lengths[[row]]).logits for row in range(ROWS)]
        return Opened(run, values, lengths, np.concatenate(alone))

    return open_once


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=25)
@given(data=st.data())
def test_company_order_and_padding_leave_no_trace(
    name: str, open_network: OpenNetwork, data: st.DataObject
) -> None:
    opened = open_network(name)
    # A sequence may be in the batch more than once.
    rows = np.array(data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS)))
    padding_steps, fill = data.draw(st.integers(0, 5)), data.draw(garbage)

    lengths = opened.lengths[rows]
    values = _padded(opened.values[rows], lengths, int(lengths.max()) + padding_steps, fill)
    opened.require(rows, opened.run(values, lengths).logits)


@pytest.mark.parametrize("name", EVERY)
def test_every_batch_size_gives_the_same_bits(name: str, open_network: OpenNetwork) -> None:
    opened = open_network(name)
    for size in range(1, ROWS + 1):
        rows = np.arange(size)
        opened.require(rows, opened.run(opened.values[rows], opened.lengths[rows]).logits)


@pytest.mark.parametrize("name", FORWARD)
@settings(max_examples=25)
@given(data=st.data())
def test_pieces_leave_no_trace(name: str, open_network: OpenNetwork, data: st.DataObject) -> None:
    """Every row is cut where it likes, and each piece runs in another company."""
    opened = open_network(name)
    rows = np.array(data.draw(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=9)))
    fill = data.draw(garbage)
    done = np.zeros(len(rows), np.int32)
    state = opened.run.initial_state(len(rows))
    logits = np.full_like(opened.alone[rows], np.nan)
    while len(unfinished := np.flatnonzero(done < opened.lengths[rows])):
        advancing = np.array(
            data.draw(st.lists(st.sampled_from(unfinished.tolist()), min_size=1, unique=True))
        )
        left = opened.lengths[rows[advancing]] - done[advancing]
        steps = np.array([data.draw(st.integers(1, int(most))) for most in left], np.int32)
        pieces = np.stack(
            [
                np.roll(opened.values[row], -start, axis=0)
                for row, start in zip(rows[advancing], done[advancing], strict=True)
            ]
        )
        outputs = opened.run(
            _padded(pieces, steps, int(steps.max()), fill),
            steps,
            opened.run.take_rows(state, advancing),
        )
        _put_rows(state, outputs.state, advancing)
        logits[advancing] = outputs.logits
        done[advancing] += steps
    opened.require(rows, logits)


@pytest.mark.parametrize("head", ["last", "mean", "max"])
def test_hundreds_of_single_steps_give_the_same_bits_as_the_whole(
    head: Head, random_model: RandomModel, open_graph: OpenGraph
) -> None:
    run = open_graph(build(random_model(head=head, hidden_size=32).network))
    values = np.random.default_rng(0).normal(0, 5, (1, 700, FEATURES)).astype(np.float32)
    state: State | None = None
    for step in range(700):
        outputs = run(values[:, step : step + 1], np.ones(1, np.int32), state)
        state = outputs.state
    assert outputs.logits.tobytes() == run(values, np.array([700], np.int32)).logits.tobytes()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("head", ["last", "mean", "max"])
def test_intra_op_threads_leave_no_trace(
    cell: Cell,
    head: Head,
    random_model: RandomModel,
    open_graph: OpenGraph,
    open_graph_threaded: OpenGraph,
) -> None:
    """For RNN they do, which is why a server must run it with one."""
    exported = build(
        random_model(cell=cell, head=head, hidden_size=128, proj_size=40 * (cell == "lstm")).network
    )
    lengths = np.random.default_rng(0).integers(1, 50, 64, endpoint=True).astype(np.int32)
    values = np.random.default_rng(1).normal(0, 5, (64, 50, FEATURES)).astype(np.float32)
    one, four = open_graph(exported), open_graph_threaded(exported)
    expected = one(values, lengths).logits
    for size in (1, 7, 64):
        logits = four(values[:size], lengths[:size]).logits
        assert logits.tobytes() == expected[:size].tobytes()


def _padded(
    values: NDArray[np.float32], lengths: NDArray[np.int32], time: int, fill: float
) -> NDArray[np.float32]:
    padded = np.full((len(values), time, FEATURES), fill, np.float32)
    for row, length in enumerate(lengths):
        padded[row, :length] = values[row, :length]
    return padded


def _put_rows(state: State, changed: State, rows: NDArray[np.int64]) -> None:
    """Every state tensor of these graphs has the batch in the middle."""
    for name, tensor in changed.items():
        state[name][:, rows] = tensor

"""The golden set: what it covers, how small it is, and that it finds what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from seqserve import golden
from seqserve.errors import GoldenMismatch
from seqserve_export.golden import LONGEST_STEPS, SHORT_STEPS, make_golden
from seqserve_export.graph import ExportedGraph, build

if TYPE_CHECKING:
    from tests.conftest import RandomModel
    from tests.export.conftest import AskTorch, OpenGraph


@pytest.mark.parametrize("longest_steps", [1, 2, 29, 500])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
def test_it_varies_all_that_must_leave_no_trace(
    longest_steps: int, bidirectional: bool, random_model: RandomModel
) -> None:
    network = random_model(bidirectional=bidirectional).network
    golden_set = make_golden(network, longest_steps)
    cases, lengths = golden_set.cases, golden_set.pool.lengths
    assert {len(case.rows) for case in cases} == {1, 2, 7, 64}
    assert {1, min(2, longest_steps), longest_steps} <= set(lengths.tolist())
    assert any(case.padding_steps for case in cases)
    assert any(case.garbage for case in cases)
    assert any(case.chunk_steps for case in cases) != bidirectional
    # A sequence that runs in one company only would prove nothing about others.
    companies = np.bincount(np.concatenate([np.unique(case.rows) for case in cases]))
    assert companies.min() >= 2
    assert len(companies) == len(golden_set.pool)


def test_its_answers_are_those_of_torch_for_each_sequence_alone(
    random_model: RandomModel, ask_torch: AskTorch
) -> None:
    network = random_model().network
    golden_set = make_golden(network, 29)
    logits = ask_torch(network, golden_set.pool)
    assert golden_set.logits.tobytes() == logits.tobytes()
    np.testing.assert_array_equal(
        golden_set.probabilities, network.probabilities(torch.tensor(logits)).numpy()
    )


def test_its_sequences_lie_where_the_standardisation_expects_them(
    random_model: RandomModel,
) -> None:
    network = random_model().network
    values = make_golden(network, 29).pool.values
    standardised = (values - network.mean.numpy()) / network.scale.numpy()
    assert np.abs(standardised.mean(axis=0)).max() < 0.5
    assert 0.5 < standardised.std() < 3


def test_it_stays_small_where_the_training_set_was_long(
    random_model: RandomModel, tmp_path: Path
) -> None:
    golden_set = make_golden(random_model(hidden_size=2).network, 1_000_000)
    assert sorted(golden_set.pool.lengths)[-2:] <= [SHORT_STEPS, LONGEST_STEPS]
    assert golden_set.pool.lengths.max() == LONGEST_STEPS
    golden_set.save(tmp_path / "golden.npz")
    assert (tmp_path / "golden.npz").stat().st_size < 200_000
    # The longest runs in a handful of rows in all.
    longest = golden_set.pool.lengths.argmax()
    assert sum(len(case.rows) for case in golden_set.cases if longest in case.rows) < 10


@pytest.mark.parametrize(
    "constant",
    [
        "mean",
        "scale",
        "layer0_w",
        "layer0_r",
        "layer0_b",
        "linear_weight",
        "linear_bias",
        "temperature",
    ],
)
def test_a_number_that_is_off_is_found(
    constant: str, random_model: RandomModel, open_graph: OpenGraph
) -> None:
    network = random_model().network
    exported, golden_set = build(network), make_golden(network, 29)
    golden.require(golden.prove(golden_set, open_graph(exported)), 1e-5, bit_equal=True)
    _change(exported, constant, 0.01)
    proof = golden.prove(golden_set, open_graph(exported))
    with pytest.raises(GoldenMismatch, match=r"differs from torch by .* in case '"):
        golden.require(proof, 1e-5, bit_equal=True)


def test_an_rnn_without_its_twin_is_found(random_model: RandomModel, open_graph: OpenGraph) -> None:
    """The numbers stay within the tolerance: only the comparison of bits can tell."""
    network = random_model(cell="rnn-tanh", hidden_size=32).network
    exported, golden_set = build(network), make_golden(network, 29)
    exported.contract.minimum_rows = 1
    proof = golden.prove(golden_set, open_graph(exported))
    assert proof.max_difference < 1e-5
    with pytest.raises(GoldenMismatch, match="depend on its company: case '1 row"):
        golden.require(proof, 1e-5, bit_equal=True)


def _change(exported: ExportedGraph, constant: str, by: float) -> None:
    for tensor in exported.model.graph.initializer:
        if tensor.name == constant:
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] += by
            tensor.CopyFrom(numpy_helper.from_array(array, constant))

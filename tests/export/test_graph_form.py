"""What the graph looks like from outside: operators, shapes, names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from seqserve_export.errors import GraphError
from seqserve_export.graph import build
from seqserve_export.network import Cell, Head

if TYPE_CHECKING:
    from tests.conftest import RandomModel

CELLS: list[Cell] = ["lstm", "gru", "rnn-tanh", "rnn-relu"]
HEADS: list[Head] = ["last", "mean", "max"]

Shape = list[int | str]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
def test_shape_inference_agrees_with_every_declared_shape(
    cell: Cell, head: Head, bidirectional: bool, random_model: RandomModel
) -> None:
    model = build(
        random_model(cell=cell, head=head, bidirectional=bidirectional, num_layers=2).network
    ).model
    declared = {tensor.name: _shape(tensor) for tensor in model.graph.output}
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    for output in inferred.graph.output:
        # Where inference finds a size but no name for it, it says nothing.
        for size, expected in zip(_shape(output), declared[output.name], strict=True):
            assert size in (expected, ""), f"{output.name}: {size}, declared {expected}"


def test_inputs_and_outputs_are_those_of_the_manifest(random_model: RandomModel) -> None:
    exported = build(random_model(features=5, classes=6, hidden_size=7, num_layers=2).network)
    graph = exported.model.graph
    assert {tensor.name: _shape(tensor) for tensor in graph.input} == {
        "values": ["batch", "time", 5],
        "lengths": ["batch"],
        "layer0_h_in": [1, "batch", 7],
        "layer0_c_in": [1, "batch", 7],
        "layer1_h_in": [1, "batch", 7],
        "layer1_c_in": [1, "batch", 7],
    }
    assert {tensor.name: _shape(tensor) for tensor in graph.output} == {
        "logits": ["batch", 6],
        "probabilities": ["batch", 6],
        "layer0_h_out": [1, "batch", 7],
        "layer0_c_out": [1, "batch", 7],
        "layer1_h_out": [1, "batch", 7],
        "layer1_c_out": [1, "batch", 7],
    }
    assert [tensor.name for tensor in exported.contract.state] == [
        "layer0_h",
        "layer0_c",
        "layer1_h",
        "layer1_c",
    ]


@pytest.mark.parametrize(
    ("head", "carried"),
    [
        ("last", {}),
        ("mean", {"sum": ([3, -1, 8], 0.0), "count": ([1, -1, 1], 0.0)}),
        ("max", {"maximum": ([1, -1, 8], -np.inf)}),
    ],
)
def test_pooling_heads_carry_what_they_have_pooled(
    head: Head, carried: dict[str, tuple[list[int], float]], random_model: RandomModel
) -> None:
    contract = build(random_model(cell="gru", head=head).network).contract
    state = {tensor.name: (list(tensor.dims), tensor.initial) for tensor in contract.state}
    assert state == {"layer0_h": ([1, -1, 8], 0.0), **carried}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
def test_bidirectional_models_carry_nothing(
    cell: Cell, head: Head, random_model: RandomModel
) -> None:
    exported = build(random_model(cell=cell, head=head, bidirectional=True).network)
    assert not exported.contract.state
    assert len(exported.model.graph.input) == len(exported.model.graph.output) == 2


@pytest.mark.parametrize(
    ("cell", "rows"), [("lstm", 1), ("gru", 1), ("rnn-tanh", 2), ("rnn-relu", 2)]
)
def test_only_rnn_asks_for_a_twin(cell: Cell, rows: int, random_model: RandomModel) -> None:
    assert build(random_model(cell=cell).network).contract.minimum_rows == rows


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", HEADS)
def test_opset_and_ir_version_are_the_stated_and_no_operator_needs_more(
    cell: Cell, head: Head, random_model: RandomModel
) -> None:
    exported = build(random_model(cell=cell, head=head).network)
    (opset,) = exported.model.opset_import
    assert (opset.domain, opset.version) == ("", 11) == ("", exported.contract.opset)
    assert exported.model.ir_version == 6 == exported.contract.ir_version
    for node in exported.model.graph.node:
        assert onnx.defs.get_schema(node.op_type, 11).since_version <= 11


def test_mean_head_could_do_with_no_lower_opset(random_model: RandomModel) -> None:
    model = build(random_model(head="mean").network).model
    model.opset_import[0].version = 10
    with pytest.raises(onnx.checker.ValidationError, match="CumSum"):
        onnx.checker.check_model(model)


def test_the_same_weights_give_the_same_bytes(random_model: RandomModel) -> None:
    first, second = (
        build(random_model(seed=3).network).model.SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert first == second


def test_the_graph_runs_in_plain_onnxruntime(random_model: RandomModel) -> None:
    model = build(random_model(bidirectional=True).network).model
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits, probabilities = session.run(
        ["logits", "probabilities"],
        {
            "values": np.zeros((2, 9, 3), np.float32),
            "lengths": np.array([9, 4], np.int32),
        },
    )
    assert logits.shape == (2, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("recurrent.weight_hh_l0", float("nan"), "weight_hh_l0 holds NaN or infinity"),
        ("mean", float("inf"), "mean holds NaN or infinity"),
        ("scale", 0.0, "scale holds a 0"),
        ("temperature", 0.0, "temperature is 0.0, not above 0"),
    ],
)
def test_numbers_that_no_graph_can_hold_are_refused(
    name: str, value: float, message: str, random_model: RandomModel
) -> None:
    network = random_model().network
    with torch.no_grad():
        network.state_dict()[name].view(-1)[0] = value
    with pytest.raises(GraphError, match=message):
        build(network)


def _shape(tensor: onnx.ValueInfoProto) -> Shape:
    return [dim.dim_param or dim.dim_value or "" for dim in tensor.type.tensor_type.shape.dim]

"""Collects the nodes, constants, inputs and outputs of one ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from seqserve.graph import state_input, state_output
from seqserve.v1.manifest_pb2 import StateTensor

BATCH = "batch"
TIME = "time"
ABSENT = ""
"""Stands for an optional input or output of an operator that is left out."""

Dim = int | str
Attribute = int | str | Sequence[int] | Sequence[str]


class GraphWriter:
    """A graph in the making. Tensors are referred to by name, as in ONNX itself."""

    def __init__(self) -> None:
        self.state: list[StateTensor] = []
        """The state tensors in order, as the manifest will have them."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dims: Sequence[Dim], dtype: int = TensorProto.FLOAT) -> str:
        """Declares an input of the graph and returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, dims))
        return name

    def output(self, name: str, dims: Sequence[Dim]) -> str:
        """Declares a float32 output of the graph and returns its name."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        return name

    def carried(self, name: str, dims: Sequence[int], initial: float = 0.0) -> tuple[str, str]:
        """Declares a state tensor.

        Args:
            name: The tensor's name in the manifest.
            dims: Its shape, -1 for the batch axis.
            initial: What every number of it is before a sequence's first step.

        Returns:
            The name it comes in by, and the name that a node must give what goes out.
        """
        tensor = StateTensor(name=name, dims=dims, initial=initial)
        named = [BATCH if size == -1 else size for size in dims]
        self.state.append(tensor)
        return self.input(state_input(tensor), named), self.output(state_output(tensor), named)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Keeps an array in the graph and returns its name; the same name is kept once."""
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        **attributes: Attribute,
    ) -> str:
        """Adds an operator with one output, named as the node is, and returns that name."""
        self.nodes(operator, inputs, [output], output, **attributes)
        return output

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str,
        **attributes: Attribute,
    ) -> None:
        """Adds an operator with any number of outputs."""
        node = helper.make_node(operator, inputs, outputs, name)
        node.attribute.extend(helper.make_attribute(*attribute) for attribute in attributes.items())
        self._nodes.append(node)

    def finish(self, name: str) -> onnx.GraphProto:
        """The graph, its nodes in the order they were added."""
        return helper.make_graph(
            self._nodes, name, self._inputs, self._outputs, list(self._constants.values())
        )

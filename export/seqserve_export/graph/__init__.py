"""A trained network as one ONNX graph, built from its state dict and not traced.

`model` puts the parts together: `weights` brings torch's matrices into the operators' order,
`recurrent` stacks the layers, `head` reduces their outputs to logits, `writer` collects nodes.
Whether the graph answers as torch does is left to the proof.
"""

from seqserve_export.graph.model import IR_VERSION, OPSET, ExportedGraph, build

__all__ = ["IR_VERSION", "OPSET", "ExportedGraph", "build"]

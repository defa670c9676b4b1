"""The head: the last layer's outputs reduced to one vector a row.

Each reduction gives a row the same bits in any company and however it was cut in pieces.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from seqserve_export.graph.recurrent import Hidden
from seqserve_export.graph.weights import Matrix
from seqserve_export.graph.writer import GraphWriter
from seqserve_export.network import NetworkConfig


def reduce(
    writer: GraphWriter,
    config: NetworkConfig,
    hidden: Hidden,
    lengths: str,
    projection: Matrix | None,
) -> tuple[str, Matrix | None]:
    """Adds the reduction.

    Args:
        writer: The graph in the making.
        config: The network's shape.
        hidden: What the last recurrent layer gives.
        lengths: (batch,), int32.
        projection: (outputs, directions * hidden), still to be applied; None without.

    Returns:
        The name of a tensor (batch, outputs or directions * hidden), and the projection where it
        is still to be applied: it may follow a mean, but must go before a maximum.
    """
    if config.head == "last":
        return _last(writer, config, hidden.last_step), projection
    if config.head == "mean":
        return _mean(writer, config, hidden.every_step, lengths), projection
    steps = hidden.every_step
    if projection is not None:
        matrix = writer.constant("projection", projection.T.astype(np.float32))
        steps = writer.node("MatMul", [steps, matrix], "projected")
    return _maximum(writer, config, steps, lengths), None


def _last(writer: GraphWriter, config: NetworkConfig, last_step: str) -> str:
    """(directions, batch, hidden) to (batch, directions * hidden)."""
    if not config.bidirectional:
        return writer.node("Squeeze", [last_step], "pooled", axes=[0])
    swapped = writer.node("Transpose", [last_step], "last_swapped", perm=[1, 0, 2])
    shape = writer.constant("both_last", np.array([0, 2 * config.hidden_size], np.int64))
    return writer.node("Reshape", [swapped, shape], "pooled")


def _mean(writer: GraphWriter, config: NetworkConfig, steps: str, lengths: str) -> str:
    """The mean over each row's own steps: CumSum and GatherElements of opset 11.

    ReduceSum adds in an order that depends on the time axis, so that pieces and padding would
    show in the last bits. CumSum adds one step after the other, and what stands at the row's
    length has seen no padding. It adds in float64: in float32 the error grows with the steps, to
    1e-4 after 8,000 steps of a saturated cell.
    """
    # (1, batch, 1)
    ends = writer.node("Unsqueeze", [lengths], "lengths_column", axes=[0, 2])
    if config.bidirectional:
        count = ends
        total = _running_sum(writer, config, steps, ends, -1)
    else:
        sum_in, sum_out = writer.carried("sum", (3, -1, config.hidden_size))
        resumed = writer.node("Concat", [sum_in, steps], "resumed_steps", axis=0)
        total = _running_sum(writer, config, resumed, ends, 2)
        _split(writer, total, sum_out)
        count = _count(writer, ends)
    divisor = writer.node("Cast", [count], "count_float64", to=TensorProto.DOUBLE)
    mean = writer.node("Div", [total, divisor], "mean_float64")
    mean = writer.node("Squeeze", [mean], "mean_rows_float64", axes=[0])
    return writer.node("Cast", [mean], "pooled", to=TensorProto.FLOAT)


def _running_sum(
    writer: GraphWriter, config: NetworkConfig, terms: str, ends: str, shift: int
) -> str:
    """float64 (1, batch, size), in each row the sum of the terms up to index `end + shift`."""
    wide = writer.node("Cast", [terms], "terms_float64", to=TensorProto.DOUBLE)
    sums = writer.node("CumSum", [wide, _int32(writer, "time_axis", 0)], "running_sums")
    last = writer.node("Add", [ends, _int32(writer, "index_shift", shift)], "last_index")
    size = config.hidden_size * (2 if config.bidirectional else 1)
    shape = writer.constant("sum_shape", np.array([1, 1, size], np.int64))
    indices = writer.node("Expand", [last, shape], "last_indices")
    return writer.node("GatherElements", [sums, indices], "sum_float64", axis=0)


def _split(writer: GraphWriter, total: str, sum_out: str) -> None:
    """Carries a float64 sum as three float32 numbers, the smallest first.

    24 bits each: what the first rounding leaves is exact in float64, what the second leaves is
    exact in float32. Put in front of the next piece's steps, CumSum joins them again, exactly.
    """
    parts = []
    rest = total
    for part in ("high", "middle", "low"):
        parts.append(writer.node("Cast", [rest], f"sum_{part}", to=TensorProto.FLOAT))
        if part != "low":
            wide = writer.node("Cast", [parts[-1]], f"sum_{part}_float64", to=TensorProto.DOUBLE)
            rest = writer.node("Sub", [rest, wide], f"sum_below_{part}")
    writer.node("Concat", parts[::-1], sum_out, axis=0)


def _count(writer: GraphWriter, ends: str) -> str:
    """Steps of each row so far, (1, batch, 1); float32 counts exactly up to 2**24."""
    count_in, count_out = writer.carried("count", (1, -1, 1))
    new = writer.node("Cast", [ends], "new_steps", to=TensorProto.FLOAT)
    return writer.node("Add", [count_in, new], count_out)


def _maximum(writer: GraphWriter, config: NetworkConfig, steps: str, lengths: str) -> str:
    """The maximum over each row's own steps: Range of opset 11, Where of opset 9.

    A maximum is exact in any order; only padding must be kept out.
    """
    lowest = writer.constant("lowest", np.array(-np.inf, np.float32))
    own = _own_steps(writer, lengths, steps)
    masked = writer.node("Where", [own, steps, lowest], "own_steps_only")
    # (1, batch, output)
    highest = writer.node("ReduceMax", [masked], "highest", axes=[0], keepdims=1)
    if not config.bidirectional:
        maximum_in, maximum_out = writer.carried("maximum", (1, -1, config.output_size), -np.inf)
        highest = writer.node("Max", [maximum_in, highest], maximum_out)
    return writer.node("Squeeze", [highest], "pooled", axes=[0])


def _own_steps(writer: GraphWriter, lengths: str, steps: str) -> str:
    """(time, batch, 1), whether a step is before its row's end."""
    shape = writer.node("Shape", [steps], "steps_shape")
    shape = writer.node("Cast", [shape], "steps_shape_int32", to=TensorProto.INT32)
    time = writer.node("Gather", [shape, _int32(writer, "time_axis", 0)], "time_steps", axis=0)
    zero, one = _int32(writer, "zero", 0), _int32(writer, "one", 1)
    steps_before = writer.node("Range", [zero, time, one], "steps_before")
    # (time, 1, 1) and (1, batch, 1)
    column = writer.node("Unsqueeze", [steps_before], "steps_before_column", axes=[1, 2])
    ends = writer.node("Unsqueeze", [lengths], "lengths_column", axes=[0, 2])
    return writer.node("Less", [column, ends], "is_own_step")


def _int32(writer: GraphWriter, name: str, value: int) -> str:
    return writer.constant(name, np.array(value, np.int32))

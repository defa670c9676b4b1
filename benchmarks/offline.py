"""What the server's core does in-process, without a server: the figures to hold it against.

They live in one process of their own on the server's core, or on others, which works when it is
told to, so that they take turns with the servers there.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.server_process import SERVER_CORE
from seqserve import artifact
from seqserve.graph import LENGTHS, LOGITS, PROBABILITIES, VALUES
from seqserve.ragged import RaggedBatch
from seqserve_server.models import sessions
from seqserve_server.options import ExecutionProvider

BATCH_SIZES = (16, 32, 64, 128, 256)
"""Rows a batch that the sorted oracle chooses from, by trying."""

TORCH_BATCH_SIZES = (64, 256)
"""The same for torch."""

GEMM_ROWS = 64

_Feed = dict[str, NDArray[Any]]

_T = TypeVar("_T")

Prepared = tuple[str, Callable[[], float]]
"""How it is done, and what takes one measurement."""


@dataclass(frozen=True)
class Baseline:
    """A figure that the process has prepared."""

    about: str
    """How it is done, as the batch size chosen."""
    measure: Callable[[], float]
    """Takes one measurement there."""


class Offline:
    """The process.

    Args:
        cores: Those that it may use: by default the server's alone.
    """

    def __init__(self, cores: Sequence[int] = (SERVER_CORE,)) -> None:
        self._here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_work, args=(there, cores))
        self._process.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self._here.send(None)
        self._process.join()

    def sorted_oracle(
        self, repository: Path, model: str, sequences: RaggedBatch, threads: int = 1
    ) -> Baseline:
        """Sequences a second of `session.run` alone, sorted by length and padded beforehand.

        What no server can do, for it would have to know all of them in advance.
        """
        return self.prepare(_prepare_sorted, repository, model, sequences, threads)

    def as_they_come(
        self, repository: Path, model: str, batches: Sequence[RaggedBatch]
    ) -> Baseline:
        """The same of given batches, in their order."""
        return self.prepare(_prepare_batches, repository, model, batches)

    def packed_torch(
        self, hidden: int, layers: int, bidirectional: bool, sequences: RaggedBatch
    ) -> Baseline:
        """Sequences a second of `torch.nn.LSTM`, sorted and packed beforehand."""
        return self.prepare(_prepare_torch, hidden, layers, bidirectional, sequences)

    def gemm_peak(self, hidden: int) -> Baseline:
        """FLOP/s of onnxruntime's MatMul with constant weights: 64 rows, H to 4H."""
        return self.prepare(_prepare_gemm, hidden)

    def prepare(self, prepare: Callable[..., Prepared], *arguments: object) -> Baseline:
        """Has the process call a function of a module, which prepares a measurement there."""
        self._here.send((prepare, arguments))
        number, about = self._here.recv()
        return Baseline(about, lambda: self._measure(number))

    def _measure(self, number: int) -> float:
        self._here.send(number)
        return float(self._here.recv())


def _work(pipe: Connection, cores: Sequence[int]) -> None:
    """Prepares what it is sent, and measures what it is sent the number of."""
    os.sched_setaffinity(0, cores)
    measures: list[Callable[[], float]] = []
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, int):
            pipe.send(measures[asked]())
            continue
        prepare, arguments = asked
        about, measure = prepare(*arguments)
        measures.append(measure)
        pipe.send((len(measures) - 1, about))


def _prepare_sorted(repository: Path, model: str, sequences: RaggedBatch, threads: int) -> Prepared:
    session = _open(artifact.version_path(repository, model, 1) / artifact.MODEL_FILE)
    return _best_size(
        sequences,
        lambda batch: _feed(session, batch),
        lambda feed: session.run([LOGITS, PROBABILITIES], feed),
        threads=threads,
    )


def _prepare_batches(repository: Path, model: str, batches: Sequence[RaggedBatch]) -> Prepared:
    session = _open(artifact.version_path(repository, model, 1) / artifact.MODEL_FILE)
    feeds = [_feed(session, batch) for batch in batches]
    rows = sum(map(len, batches))
    measure = _rate(rows, feeds, lambda feed: session.run([LOGITS, PROBABILITIES], feed))
    measure()
    return "batches as they come", measure


def _prepare_torch(
    hidden: int, layers: int, bidirectional: bool, sequences: RaggedBatch
) -> Prepared:
    import torch
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

    torch.set_num_threads(1)
    lstm = torch.nn.LSTM(
        sequences.features, hidden, layers, batch_first=True, bidirectional=bidirectional
    )
    head = torch.nn.Linear(hidden * (2 if bidirectional else 1), 9)
    directions = 2 if bidirectional else 1

    def run(packed: PackedSequence) -> None:
        with torch.inference_mode():
            _, (last, _) = lstm(packed)
            torch.softmax(head(torch.cat(tuple(last[-directions:]), dim=1)), dim=1)

    def pack(batch: RaggedBatch) -> PackedSequence:
        values, lengths = torch.from_numpy(batch.padded()), torch.from_numpy(batch.lengths)
        return pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)

    return _best_size(sequences, pack, run, TORCH_BATCH_SIZES)


def _prepare_gemm(hidden: int) -> Prepared:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((hidden, 4 * hidden), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [GEMM_ROWS, hidden])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [GEMM_ROWS, 4 * hidden])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = _open_bytes(model.SerializeToString())
    feed = {"x": rng.standard_normal((GEMM_ROWS, hidden), np.float32)}

    def measure() -> float:
        seconds = []
        for _ in range(500):
            begin = time.perf_counter()
            session.run(["y"], feed)
            seconds.append(time.perf_counter() - begin)
        # A peak is what the core can do: the fastest tenth, free of other tenants.
        fastest = float(np.quantile(seconds, 0.1))
        return 2 * GEMM_ROWS * hidden * 4 * hidden / fastest

    measure()
    return f"M={GEMM_ROWS}, N={4 * hidden}, K={hidden}", measure


def _best_size(
    sequences: RaggedBatch,
    prepare: Callable[[RaggedBatch], _T],
    run: Callable[[_T], object],
    sizes: Sequence[int] = BATCH_SIZES,
    threads: int = 1,
) -> Prepared:
    """The measurement with the batch size that does best in a trial."""
    in_order = sequences.take(np.argsort(sequences.lengths, kind="stable"))
    best: list[_T] = []
    best_size, best_rate = 0, -math.inf
    for size in sizes:
        batches = [
            in_order.slice(first, min(first + size, len(in_order)))
            for first in range(0, len(in_order), size)
        ]
        prepared = [prepare(batch) for batch in batches]
        run(prepared[-1])
        rate = _rate(len(sequences), prepared, run, threads)()
        if rate > best_rate:
            best, best_size, best_rate = prepared, size, rate
    return f"{best_size} rows a batch", _rate(len(sequences), best, run, threads)


def _rate(
    sequences: int, prepared: Sequence[_T], run: Callable[[_T], object], threads: int = 1
) -> Callable[[], float]:
    def measure() -> float:
        with ThreadPoolExecutor(threads) as pool:
            begin = time.perf_counter()
            deque(map(run, prepared) if threads == 1 else pool.map(run, prepared), maxlen=0)
            return sequences / (time.perf_counter() - begin)

    return measure


def _open(path: Path) -> ort.InferenceSession:
    return _open_bytes(path.read_bytes())


def _open_bytes(model: bytes) -> ort.InferenceSession:
    """A session with the very options that the server has."""
    return sessions.opener(ExecutionProvider.CPU)(model)


def _feed(session: ort.InferenceSession, batch: RaggedBatch) -> _Feed:
    feed: _Feed = {VALUES: batch.padded(), LENGTHS: batch.lengths.astype(np.int32)}
    for tensor in session.get_inputs():
        if tensor.name not in feed:
            shape = [size if isinstance(size, int) else len(batch) for size in tensor.shape]
            feed[tensor.name] = np.zeros(shape, np.float32)
    return feed

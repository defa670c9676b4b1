"""The calls that a benchmark makes: prepared, sent under load, and their answers checked."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Answered, Load
from seqserve import artifact, ragged
from seqserve.graph import GraphRunner
from seqserve.ragged import RaggedBatch
from seqserve.v1 import classifier_pb2 as pb
from seqserve_server.models import sessions
from seqserve_server.options import ExecutionProvider

CLASSIFY = "/seqserve.v1.SequenceClassifier/Classify"

_MOST_BUSY = 0.9
_MOST_LATE = 0.5
_CHECKED = 4


class WrongAnswer(Exception):
    """A figure of answers that are not those of a batch of one is worth nothing."""


class References:
    """Logits of sequences as a batch of one gives them, in-process.

    Args:
        repository: The model repository.
        model: The model's name.
        sequences: The sequences.
    """

    def __init__(self, repository: Path, model: str, sequences: RaggedBatch) -> None:
        folder = artifact.version_path(repository, model, 1)
        content = (folder / artifact.MODEL_FILE).read_bytes()
        session = sessions.opener(ExecutionProvider.CPU)(content)
        self._graph = GraphRunner(artifact.read_manifest(folder).graph, session.run)
        self._sequences = sequences
        self._known: dict[int, bytes] = {}

    def logits(self, index: int) -> bytes:
        """Of one sequence, as the wire has them."""
        if index not in self._known:
            steps = self._sequences[index]
            outputs = self._graph(steps[None], np.array([len(steps)], np.int32))
            self._known[index] = ragged.encode_matrix(outputs.logits)
        return self._known[index]


class Calls:
    """Classify requests of equally many sequences each.

    Args:
        repository: The model repository, for the answers to be checked against.
        model: The model's name.
        sequences: All sequences; a multiple of `size`.
        size: Sequences of a request.
        service_class: How urgent they are.
    """

    def __init__(
        self,
        repository: Path,
        model: str,
        sequences: RaggedBatch,
        size: int,
        service_class: pb.ServiceClass.ValueType = pb.SERVICE_CLASS_UNSPECIFIED,
    ) -> None:
        self.size = size
        self.messages = [
            pb.ClassifyRequest(
                model_name=model,
                sequences=ragged.encode(sequences.slice(first, first + size)),
                service_class=service_class,
            ).SerializeToString()
            for first in range(0, len(sequences), size)
        ]
        self._references = References(repository, model, sequences)

    def saturate(self, load: Load, in_flight: int, calls: int) -> float:
        """Sequences a second with so many calls always unanswered, between ramp and ramp.

        Not a number where the generator was what kept the server from more.
        """
        which = np.arange(calls) % len(self.messages)
        with _no_collection():
            answered = load.closed_loop(which, in_flight, _some(calls))
        self.check(answered, which)
        if answered.busy > _MOST_BUSY:
            _refuse(f"the generator was busy {answered.busy:.0%} of the time")
            return math.nan
        return answered.steady_rate(in_flight) * self.size

    def warm(self, load: Load, in_flight: int, seconds: float) -> int:
        """How many calls take about `seconds`; brings connection, caches and cost model up."""
        least = 6 * in_flight
        which = np.arange(least) % len(self.messages)
        answered = load.closed_loop(which, in_flight, _some(least))
        self.check(answered, which)
        return max(least, int(least / answered.seconds * seconds))

    def arrive(self, load: Load, rate: float, calls: int, seed: int) -> Answered:
        """Poisson arrivals of `rate` calls a second, whatever becomes of those before."""
        rng = np.random.default_rng(seed)
        which = rng.integers(0, len(self.messages), calls)
        times_s = rng.exponential(1 / rate, calls).cumsum()
        with _no_collection():
            answered = load.open_loop(times_s, which, _some(calls))
        self.check(answered, which)
        return answered

    def check(self, answered: Answered, which: NDArray[np.int64]) -> None:
        """Holds the answers that were kept against a batch of one, bit for bit.

        Raises:
            WrongAnswer: one differs, or a call failed.
        """
        if answered.failed:
            raise WrongAnswer(f"{answered.failed} of {len(which)} calls failed")
        for call, message in answered.answers.items():
            logits = pb.ClassifyResponse.FromString(message).answers.logits
            first = int(which[call]) * self.size
            expected = b"".join(map(self._references.logits, range(first, first + self.size)))
            if logits != expected:
                raise WrongAnswer(f"call {call}: its logits differ from a batch of one")


class Echoed(Calls):
    """The same requests, for a server that computes nothing."""

    def check(self, answered: Answered, which: NDArray[np.int64]) -> None:
        """Only that every call was answered."""
        if answered.failed:
            raise WrongAnswer(f"{answered.failed} of {len(which)} calls failed")


def p99_ms(answered: Answered) -> float:
    """The 99th percentile of the latencies, from the intended moment.

    Not a number where it is the generator's own lateness that it shows.
    """
    latency = float(np.percentile(answered.latencies_s, 99))
    late = float(np.percentile(answered.lateness_s, 99))
    if late > _MOST_LATE * latency:
        _refuse(f"calls left up to {late * 1e3:.2f} ms late (p99) of {latency * 1e3:.2f} ms")
        return math.nan
    return latency * 1e3


def _some(calls: int) -> list[int]:
    """Calls whose answers are looked at, from the first to the last."""
    return [int(call) for call in np.linspace(0, calls - 1, _CHECKED)]


def _refuse(why: str) -> None:
    print(f"no figure: {why}", file=sys.stderr)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The generator's garbage is not the server's latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

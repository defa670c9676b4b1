"""Sequences whose answers are known: what each gives alone, in-process, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.calls import CLASSIFY, References
from seqserve import artifact, ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.classifier_pb2 import ClassifyRequest, ClassifyResponse

Array = NDArray[np.float32]


class SequencePool:
    """Sequences of a model, most of them short.

    Args:
        repository: Has the model's version 1.
        model: Its name.
        count: How many sequences.
        longest_steps: The longest of them.
    """

    method: tuple[str, Callable[[ClassifyRequest], bytes], Callable[[bytes], ClassifyResponse]] = (
        CLASSIFY,
        ClassifyRequest.SerializeToString,
        ClassifyResponse.FromString,
    )
    """What a bare channel is told of Classify."""

    def __init__(self, repository: Path, model: str, count: int, longest_steps: int) -> None:
        manifest = artifact.read_manifest(artifact.version_path(repository, model, 1))
        features = int(manifest.input.features.size)
        rng = np.random.default_rng(7)
        lengths = rng.lognormal(np.log(20), 1.0, count).astype(np.int64).clip(1, longest_steps)
        values = rng.standard_normal((int(lengths.sum()), features), np.float32)
        batch = RaggedBatch(values, lengths)
        references = References(repository, model, batch)
        self.model = model
        self.forward_only = not manifest.network.bidirectional
        self._sequences = [batch[index] for index in range(count)]
        self._logits = np.stack(
            [np.frombuffer(references.logits(index), "<f4") for index in range(count)]
        )

    def __len__(self) -> int:
        """How many there are."""
        return len(self._sequences)

    def sequences(self, chosen: NDArray[np.int64]) -> list[Array]:
        """Those of these numbers."""
        return [self._sequences[index] for index in chosen]

    def request(self, chosen: NDArray[np.int64]) -> ClassifyRequest:
        """Asks for them."""
        batch = RaggedBatch.from_sequences(self.sequences(chosen))
        return ClassifyRequest(model_name=self.model, sequences=ragged.encode(batch))

    def wrong(self, chosen: NDArray[np.int64], logits: Array) -> str:
        """What is wrong with the answers to them; empty where nothing is.

        Args:
            chosen: Their numbers.
            logits: (sequences, classes), as answered.
        """
        expected = self._logits[chosen]
        if logits.shape != expected.shape:
            return f"{self.model}: {logits.shape} logits for {expected.shape}"
        differ = np.flatnonzero((logits != expected).any(axis=1))
        if len(differ):
            return f"{self.model}: sequence {chosen[differ[0]]} has other bits in company"
        return ""

    def wrong_response(self, chosen: NDArray[np.int64], response: ClassifyResponse) -> str:
        """The same of a message."""
        logits = np.frombuffer(response.answers.logits, "<f4")
        return self.wrong(chosen, logits.reshape(-1, self._logits.shape[1]))

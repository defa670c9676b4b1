"""Live sequences: what a call of `advance` asks and gives, and one sequence followed by hand.

The server keeps nothing between calls. What it needs to go on is in the token of each answer,
which any replica takes, and which may be sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seqserve.ragged import encode
from seqserve.v1.classifier_pb2 import AdvanceRequest, AdvanceResponse
from seqserve_client.batching import Sequences, as_batch, checked_number
from seqserve_client.classification import Answer, Classification, read
from seqserve_client.errors import InvalidOptions, ProtocolError

if TYPE_CHECKING:
    from seqserve_client.async_client import AsyncClient
    from seqserve_client.client import Client


@dataclass(frozen=True, eq=False)
class Progress:
    """Where live sequences have got to."""

    answers: Classification
    """For each sequence the answer to all of its steps so far."""
    tokens: tuple[bytes, ...]
    """For each sequence what to send with its next steps."""
    steps: NDArray[np.int64]
    """(sequences,), steps of each so far."""

    def __len__(self) -> int:
        """Sequences advanced."""
        return len(self.tokens)


def request(
    steps: Sequences, tokens: Sequence[bytes] | None, *, model: str, version: int, top_k: int
) -> AdvanceRequest:
    """The message of a call of `advance`.

    Raises:
        InvalidSequences: the steps do not make a batch.
        InvalidOptions: there is not one token a sequence, or a number is negative.
    """
    batch = as_batch(steps)
    tokens = tokens or ()
    if tokens and len(tokens) != len(batch):
        raise InvalidOptions(
            f"{len(tokens)} tokens were given for {len(batch)} sequences; one each is needed, "
            "b'' for a new sequence, or none at all"
        )
    return AdvanceRequest(
        model_name=model,
        model_version=checked_number("version", version),
        steps=encode(batch),
        tokens=tokens,
        top_k=checked_number("top_k", top_k),
    )


def progress(response: AdvanceResponse, asked: AdvanceRequest) -> Progress:
    """A response as it came from the wire, checked against what was asked.

    Raises:
        ProtocolError: the response does not fit the request.
    """
    sequences = len(asked.steps.lengths)
    if not len(response.tokens) == len(response.steps) == sequences:
        raise ProtocolError(
            f"a token and a count of steps for {sequences} sequences were expected; "
            f"{len(response.tokens)} and {len(response.steps)} came"
        )
    return Progress(
        read(response, sequences=sequences, top_k=asked.top_k),
        tuple(response.tokens),
        np.array(response.steps, np.int64),
    )


class _Live:
    """How far one sequence has got; it stays with the version that answered it first."""

    def __init__(self, model: str, version: int, top_k: int) -> None:
        self.model = model
        self.version = version
        self.token = b""
        self.steps = 0
        self._top_k = top_k

    def _take(self, reached: Progress) -> Answer:
        self.version = reached.answers.model_version
        self.token = reached.tokens[0]
        self.steps = int(reached.steps[0])
        return reached.answers[0]


class LiveSequence(_Live):
    """One live sequence: `answer = live.advance(steps)`, again and again.

    Where a call fails, the sequence stays as far as it was, and the same steps may be given again.
    Not for use by several threads at once.
    """

    def __init__(self, client: Client, *, model: str, version: int = 0, top_k: int = 0) -> None:
        super().__init__(model, version, top_k)
        self._client = client

    def advance(self, steps: ArrayLike, *, timeout_s: float | None = None) -> Answer:
        """Adds steps, (steps, features), and answers for all of the sequence so far."""
        reached = self._client.advance(
            [steps],
            tokens=[self.token],
            model=self.model,
            version=self.version,
            top_k=self._top_k,
            timeout_s=timeout_s,
        )
        return self._take(reached)


class AsyncLiveSequence(_Live):
    """`LiveSequence`, awaited. Not for use by several tasks at once."""

    def __init__(
        self, client: AsyncClient, *, model: str, version: int = 0, top_k: int = 0
    ) -> None:
        super().__init__(model, version, top_k)
        self._client = client

    async def advance(self, steps: ArrayLike, *, timeout_s: float | None = None) -> Answer:
        """Adds steps, (steps, features), and answers for all of the sequence so far."""
        reached = await self._client.advance(
            [steps],
            tokens=[self.token],
            model=self.model,
            version=self.version,
            top_k=self._top_k,
            timeout_s=timeout_s,
        )
        return self._take(reached)

"""Some of the frames campaign's inputs at a server of this process: it lives, and answers alike."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from tests.campaigns import frames

if TYPE_CHECKING:
    from tests.server.conftest import Running

INPUTS = 600


def test_mutated_frames_harm_nobody(server: Running) -> None:
    sequence = np.linspace(-3, 3, 21, dtype=np.float32).reshape(7, 3)
    before = server.classify(frames.MODEL, [sequence]).answers
    outcomes = frames.Outcomes()
    address = server.server.address
    inputs = frames.Inputs(address, seed=7)
    asyncio.run(frames.throw(address, inputs, range(INPUTS), outcomes))

    assert outcomes.ended.total() == INPUTS
    assert outcomes.statuses["OK"]
    assert not outcomes.bad
    assert server.classify(frames.MODEL, [sequence]).answers == before
    assert server.health() == "SERVING"

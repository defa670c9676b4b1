"""How a served model is run: its graph, what its rows consist of, and what running them costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from seqserve.graph import GraphRunner
from seqserve_server.scheduling.cost import CostModel

_PLAY_BYTES = 16 << 20
"""Of the values in play."""
_LONG_PLAY_BYTES = 256 << 20
"""The same, where rows are so long that it would hold fewer than eight."""
CACHE_BYTES = 1 << 20
"""Of the caches that a core has for itself, about."""
PLAY_STEPS = 131_072
"""Steps in play beyond which more of them are no better to choose from."""


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs rows of one model; equal only to itself. Lanes use it at the same time."""

    graph: GraphRunner
    """Calls the model's session."""
    features: int
    """Features a step."""
    classes: int
    """Columns of the logits."""
    max_steps: int
    """The longest row."""
    max_row_steps: int
    """Rows times steps, padding included, that one run may hold; one row always may."""
    cached_row_steps: int
    """The same of a run that computes in a core's caches."""
    cost_clock: Callable[[], float] = time.thread_time
    """What runs are timed with. A lane's own processor time is not disturbed by what else the
    machine does; where the work is done elsewhere it says nothing, and wall time is to be taken."""
    cost: CostModel = field(default_factory=CostModel)
    """What its runs cost, kept current by those that run it."""
    model: str = ""
    """Whose rows these are, for counters and traces."""
    version: int = 0
    """The same."""

    @property
    def play_steps(self) -> int:
        """How many steps the rows in play may have together: enough to choose from."""
        most = _PLAY_BYTES // (4 * self.features)
        roomy = _LONG_PLAY_BYTES // (4 * self.features)
        return max(1, min(most, PLAY_STEPS), min(8 * self.max_steps, roomy))

    @property
    def work_steps(self) -> int:
        """How many steps rows that come together should have: several must fit into play."""
        return work_steps(self.play_steps)

    @property
    def whole(self) -> bool:
        """Whether rows must run to their end at once: nothing carries their state."""
        return not self.graph.state_tensors


def work_steps(play_steps: int) -> int:
    """The same, where so many may be in play."""
    return max(1, play_steps // 8)

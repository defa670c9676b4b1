"""How a served model is run: its graph, what its rows consist of, and what running them costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from seqserve.graph import GraphRunner
from seqserve_server.scheduling.cost import CostModel


@dataclass(frozen=True, eq=False)
class Runner:
    """Runs rows of one model; equal only to itself. Lanes use it at the same time."""

    graph: GraphRunner
    """Calls the model's session."""
    features: int
    """Features a step."""
    classes: int
    """Columns of the logits."""
    max_row_steps: int
    """Rows times steps, padding included, that one run may hold; one row always may."""
    cost_clock: Callable[[], float] = time.thread_time
    """What runs are timed with. A lane's own processor time is not disturbed by what else the
    machine does; where the work is done elsewhere it says nothing, and wall time is to be taken."""
    cost: CostModel = field(default_factory=CostModel)
    """What its runs cost, kept current by those that run it."""

    @property
    def whole(self) -> bool:
        """Whether rows must run to their end at once: nothing carries their state."""
        return not self.graph.state_tensors

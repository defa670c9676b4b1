"""A replica of the fleet, and the calls it has."""

from __future__ import annotations

import math
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from benchmarks.virtual_fleet.balancers import Balancer
from seqserve_server.scheduling.virtual_server import (
    ServerModel,
    VirtualServer,
    VirtualTime,
    make_pool,
)


class State(Enum):
    """Of a replica."""

    STARTING = auto()
    SERVING = auto()
    DRAINING = auto()
    """Answers what it has; takes what comes until its pause is over."""
    STOPPED = auto()
    CRASHED = auto()
    """Whoever calls it is told so at once."""
    SILENT = auto()
    """Nothing comes back: its host is cut off, or stands still."""


class Replica:
    """A server and what is known of it.

    Args:
        number: Of it, for ever.
        model: What it is taken for.
        now: When it was wished for.
    """

    def __init__(self, number: int, model: ServerModel, now: float) -> None:
        self.number = number
        self.model = model
        self.cores = float(model.lanes if model.cores is None else model.cores)
        self.clock = VirtualTime(self.cores)
        self.server = VirtualServer(model, self.clock, make_pool)
        self.state = State.STARTING
        self.began = now
        self.ended = math.inf
        self.refuses_from = math.inf
        """When it takes no more calls, where it drains."""
        self.under_way: dict[Attempt, None] = {}
        """In the order in which they were made."""
        self.version = 0
        """Of what its clock will do next."""

    @property
    def runs(self) -> bool:
        """Whether its clock goes on."""
        return self.state in (State.SERVING, State.DRAINING)


class Called:
    """A call, from its caller's view."""

    __slots__ = ("attempts", "balancer", "deadline", "index", "lengths")

    def __init__(
        self, index: int, lengths: NDArray[np.int64], balancer: Balancer, deadline: float
    ) -> None:
        self.index = index
        self.lengths = lengths
        self.balancer = balancer
        self.deadline = deadline
        self.attempts = 0


class Attempt:
    """A call at a replica, until its caller has heard of it."""

    __slots__ = ("called", "over", "replica")

    def __init__(self, called: Called, replica: Replica) -> None:
        self.called = called
        self.replica = replica
        self.over = False
        replica.under_way[self] = None
        called.balancer.began(replica.number)

    def end(self) -> bool:
        """Takes it from the replica's; whether it was still there."""
        if self.over:
            return False
        self.over = True
        del self.replica.under_way[self]
        self.called.balancer.ended(self.replica.number)
        return True

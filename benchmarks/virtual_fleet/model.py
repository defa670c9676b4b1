"""What a fleet is taken for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.virtual_fleet.balancers import Balancer
from seqserve_server.scheduling.virtual_server import ServerModel


@dataclass(frozen=True)
class FleetModel:
    """What a fleet is taken for."""

    server: ServerModel
    """Each replica."""
    replicas: int
    """That serve from the beginning."""
    balancer: Callable[[int], Balancer]
    """Made with a seed."""
    first: ServerModel | None = None
    """The first one, where it is unlike the others: a neighbour takes some of its cores."""
    balancers: int = 1
    """How many there are, each with a share of the calls and a view of its own: clients that
    balance for themselves, or proxies."""
    notice_s: float = 0.0
    """How late balancers learn that a replica serves or drains; 0 where it tells them itself."""
    detect_s: float = 0.0
    """How late they learn that it has crashed."""
    detect_silence_s: float = math.inf
    """How late they learn that it is silent."""
    start_s: float = 0.0
    """From the wish for a replica to its first answer: place, image, process, golden set."""
    drain_pause_s: float = 5.0
    """How long a replica that drains takes calls: `--drain-pause`."""
    attempts: int = 5
    """Of a call that ends UNAVAILABLE."""
    backoff_s: float = 0.1
    """Before the second attempt; 2.5 times as long before each further one, up to 2 s."""
    seed: int = 0

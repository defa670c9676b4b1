"""Rows that came together, and what is known of them while they wait and run."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seqserve.graph import Array
from seqserve_server.scheduling.work import ServiceClass

_NOWHERE = np.empty(0, np.int64)
_NOTHING: Array = np.empty((0, 0), np.float32)


class Ticket:
    """Rows that came together and are answered together; equal only to itself.

    Args:
        lengths: (rows,), steps to advance each by, at least 1.
        arrived: When it came, on the pool's clock.
        service_class: How urgent it is.
        deadline: When nobody waits for it any more, on the pool's clock.
    """

    __slots__ = (
        "arrived",
        "deadline",
        "gone",
        "lengths",
        "pending",
        "service_class",
        "slots",
        "steps",
        "values",
    )

    def __init__(
        self,
        lengths: NDArray[np.int64],
        arrived: float,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        deadline: float = math.inf,
    ) -> None:
        self.lengths = lengths
        self.steps = sum(lengths.tolist())
        self.service_class = service_class
        self.deadline = deadline
        self.arrived = arrived
        self.slots = _NOWHERE
        """Where its rows are; none while it waits for room."""
        self.values = _NOTHING
        """(steps, features), what its rows read, end to end; nothing where no model is run."""
        self.pending = len(lengths)
        """Rows that have not reached their end."""
        self.gone = False
        """Whether nobody waits for it any more."""

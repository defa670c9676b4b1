"""What a pool has in play, for tests that keep books of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqserve_server.scheduling.pool import Pool, Slots


def rows_in_play(pool: Pool) -> tuple[Slots, NDArray[np.int64]]:
    """The slots of the tickets in play, and the steps that each row still has to go."""
    slots = [ticket.slots for ticket in pool._in_play]
    joined = np.concatenate(slots) if slots else np.empty(0, np.int64)
    return joined, pool._remaining[joined]

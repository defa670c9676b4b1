"""A model's warm-up: turns of many shapes, run as they will be, which its costs are fitted to."""

from __future__ import annotations

import math

import numpy as np

from seqserve.ragged import RaggedBatch
from seqserve_server.models.runner import CACHE_BYTES, Runner
from seqserve_server.scheduling.batcher import Batcher, WorkTicket
from seqserve_server.scheduling.cost import Spent
from seqserve_server.scheduling.row_store import Workspace
from seqserve_server.scheduling.work import Work

BUDGET_S = 0.25
"""After so long no further shape is begun: a wide model makes do with fewer and smaller ones."""

_REPEATS = 4

# Lengths of the rows of a turn, the cheap ones first. Unequal ones make several runs of it.
_SHAPES: tuple[tuple[int, ...], ...] = (
    (1,),
    (8,),
    (4,) * 4,
    (1,) * 32,
    (32,),
    (2, 4, 8, 16, 32) * 2,
    (16,) * 8,
    (1, 3, 6, 12, 24, 48) * 4,
    (32,) * 16,
    (8,) * 64,
    (128,) * 2,
    (24,) * 48,
    (100,) * 12,
)


def warm_up(runner: Runner) -> list[Spent]:
    """Runs rows of zeros in many shapes, and fits `runner.cost` to what they took, the result."""
    workspace = Workspace()
    begin = runner.cost_clock()
    observed: list[Spent] = []
    for shape in _SHAPES:
        for with_state in (False, True)[: 1 if runner.whole else 2]:
            if observed and runner.cost_clock() - begin > BUDGET_S:
                break
            observed += _turns(runner, shape, with_state, workspace)
    runner.cost.calibrate(observed)
    return observed


def _turns(
    runner: Runner, shape: tuple[int, ...], with_state: bool, workspace: Workspace
) -> list[Spent]:
    """What the turns took, one after the other, that advance rows of these lengths.

    The whole is repeated, and the quickest time of each turn is taken: what else the machine
    does only ever adds to it.
    """
    lengths = np.array(shape)
    rows = RaggedBatch(np.zeros((int(lengths.sum()), runner.features), np.float32), lengths)
    state = runner.graph.initial_state(len(rows)) if with_state else None
    batcher = Batcher(runner)
    other = np.zeros(2 * CACHE_BYTES, np.int8)  # nothing of what the caches hold stays
    repeats: list[list[Spent]] = []
    for _ in range(_REPEATS):
        batcher.pool.add(WorkTicket(Work(runner, rows, state, math.inf), 0.0))
        other += 1  # the caches hold other things, as they will
        batcher.admit(0.0)
        repeats.append([])
        while prepared := batcher.prepare(0.0, workspace):
            batcher.run(prepared)
            batcher.finish(prepared)
            if prepared.error is not None:
                raise prepared.error
            repeats[-1].append(prepared.spent())
    return [min(turns, key=lambda spent: spent.seconds) for turns in zip(*repeats, strict=True)]

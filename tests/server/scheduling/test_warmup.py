from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest

from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.batcher import Batcher, WorkTicket
from seqserve_server.scheduling.cost import DEFAULT, CostModel, Spent
from seqserve_server.scheduling.row_store import Workspace
from seqserve_server.scheduling.warmup import warm_up
from tests.server.scheduling.checksum_model import FORWARD, checksums, make_runner, make_work

MODELS = ["lstm", "gru", "rnn", "both-ways"]


def _quickest(runner: Runner, lengths: list[int]) -> list[Spent]:
    """The turns of rows of these lengths, each the quickest of several tries."""
    batcher, workspace = Batcher(runner), Workspace()
    tries: list[list[Spent]] = []
    for _ in range(20):
        batcher.pool.add(WorkTicket(make_work(runner, lengths), 0.0))
        batcher.admit(0.0)
        tries.append([])
        while prepared := batcher.prepare(0.0, workspace):
            batcher.run(prepared)
            batcher.finish(prepared)
            tries[-1].append(prepared.spent())
    return [min(turns, key=lambda spent: spent.seconds) for turns in zip(*tries, strict=True)]


def _predicted_s(cost: CostModel, spent: Spent) -> float:
    now = cost.now
    return float(
        np.dot(
            astuple(now),
            [1, spent.runs, spent.steps, spent.rows, spent.row_steps, spent.carried],
        )
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_warmed_up_model_predicts_what_its_turns_take(
    real_runner: Callable[[str], Runner], name: str
) -> None:
    runner = real_runner(name)
    # The factor is loose, since other things run on the machine.
    for lengths in ([20], [20] * 10, [60] * 30, list(range(1, 60))):
        for spent in _quickest(runner, lengths):
            assert 1 / 4 < _predicted_s(runner.cost, spent) / spent.seconds < 4


@pytest.mark.parametrize("name", MODELS)
def test_a_warmed_up_model_knows_that_more_costs_more(
    real_runner: Callable[[str], Runner], name: str
) -> None:
    cost = real_runner(name).cost

    assert cost.now != DEFAULT
    assert all(0 < each < math.inf for each in astuple(cost.now))
    assert 0 < cost.run_s(1, 1) < cost.run_s(64, 1) < cost.run_s(64, 64)
    assert 0 < cost.company_s(1, 1) < cost.alone_s(1)


def test_whatever_fails_in_the_warm_up_is_told() -> None:
    def failing(output_names: object, input_feed: object) -> list[object]:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        warm_up(make_runner(FORWARD, failing))


def test_a_warm_up_leaves_a_model_that_gives_the_same_answers() -> None:
    runner = make_runner(FORWARD, checksums)
    before = runner.cost.now
    warm_up(runner)

    assert runner.cost.now != before
    [spent] = _quickest(runner, [4])
    assert spent.rows == 1
    assert spent.row_steps == 4

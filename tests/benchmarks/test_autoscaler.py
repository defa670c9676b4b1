"""The autoscaler's rule against what Kubernetes documents, and at work on a small fleet."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fleet import manifest_rule
from benchmarks.virtual_fleet.autoscaler import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Autoscaler,
    Pace,
    Pacer,
    Policy,
    Rule,
    desired,
    lanes_busy,
    queue_wait_p99_s,
)
from benchmarks.virtual_fleet.balancers import TwoChoices
from benchmarks.virtual_fleet.fleet import simulate_fleet
from benchmarks.virtual_fleet.model import FleetModel
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.simulation import Calls
from seqserve_server.scheduling.virtual_server import ServerModel

RULE = Rule(lanes_busy, target=0.5, least=1, most=20)


@pytest.mark.parametrize(
    ("replicas", "metrics", "expected"),
    [
        (4, [1.0] * 4, 8),
        (4, [0.6] * 4, 5),
        (4, [0.25] * 4, 2),
        (4, [0.54] * 4, 4),  # within the tolerance of a tenth
        (4, [], 4),
        (4, [1.0] * 2, 4),  # two that do not tell count as idle, and it is 1 on average
        (4, [1.0, 1.0, 1.0], 6),
        (4, [0.1] * 3, 2),  # one that does not tell counts as just right
    ],
)
def test_replicas_are_wished_for_in_proportion_to_the_metric(
    replicas: int, metrics: list[float], expected: int
) -> None:
    assert desired(RULE, replicas, metrics) == expected


def test_up_goes_at_once_as_far_as_the_policy_that_allows_most() -> None:
    pacer = Pacer(replace(RULE, up=DEFAULT_UP))

    assert pacer.bounded(2, 20, now=0) == 6  # four more, or twice as many
    assert pacer.bounded(6, 20, now=10) == 6  # that was within the same 15 s
    assert pacer.bounded(6, 20, now=15) == 12


def test_down_waits_until_every_wish_in_the_window_was_lower_and_goes_at_its_pace() -> None:
    pace = Pace((Policy("Pods", 1, 120.0),), settle_s=60.0)
    pacer = Pacer(replace(RULE, down=pace))

    assert pacer.bounded(8, 8, now=0) == 8
    assert pacer.bounded(8, 2, now=60) == 8
    assert pacer.bounded(8, 2, now=75) == 7
    assert pacer.bounded(7, 2, now=180) == 7
    assert pacer.bounded(7, 2, now=195) == 6


def test_bounds_hold_whatever_is_wished() -> None:
    pacer = Pacer(replace(RULE, least=3, most=5, down=DEFAULT_DOWN))

    assert pacer.bounded(4, 100, now=0) == 5
    assert pacer.bounded(5, 0, now=1_000) == 3


def test_the_manifest_is_read_as_it_stands() -> None:
    rule = manifest_rule()

    assert rule.measure is queue_wait_p99_s
    assert 0 < rule.target < 60
    assert 1 <= rule.least < rule.most
    assert rule.up.policies
    assert rule.down.policies


def test_a_fleet_grows_under_a_load_that_is_too_much_for_it_and_shrinks_after() -> None:
    server = ServerModel(
        Coefficients(turn=1e-3, run=1e-3, step=0.0, row=0.0, row_step=1e-2, carry=0.0)
    )
    # Of ten steps, a tenth of a second each: 30 a second for 200 s, then 3.
    times_s = np.concatenate([np.arange(0, 200, 1 / 30), np.arange(200, 800, 1 / 3)])
    calls = Calls(np.full(len(times_s), 10), np.ones(len(times_s), np.int64), times_s)
    scaler = Autoscaler(RULE, until_s=800)

    result = simulate_fleet(
        FleetModel(server, 1, TwoChoices, start_s=10.0, drain_pause_s=0.0), calls, [scaler]
    )

    counts = dict(scaler.counts)
    assert counts[15.0] == 1
    assert max(counts.values()) >= 4
    assert counts[795.0] == 1
    assert result.goodput == 1
    most = result.granted_core_s / result.seconds
    assert math.ceil(most) < max(counts.values())

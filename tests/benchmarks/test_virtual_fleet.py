"""Fleets of small replicas under a virtual clock: what must hold whatever happens to them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.virtual_fleet.balancers import (
    BALANCERS,
    Balancer,
    LeastRequest,
    Random,
    RoundRobin,
    TwoChoices,
)
from benchmarks.virtual_fleet.fleet import Fleet, simulate_fleet
from benchmarks.virtual_fleet.model import FleetModel
from benchmarks.virtual_fleet.plans import Crash, Plan, RollOut, Silence
from benchmarks.virtual_fleet.replica import State
from benchmarks.virtual_fleet.result import Ending, FleetResult
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.simulation import Calls, simulate
from seqserve_server.scheduling.virtual_server import ServerModel

SERVER = ServerModel(
    Coefficients(turn=150e-6, run=40e-6, step=0.5e-6, row=0.3e-6, row_step=10e-6, carry=0.5e-6),
    call_s=50e-6,
    latency_s=0.4e-3,
)
LENGTHS = np.arange(1, 101)
"""About 2,000 sequences a second and lane."""

FLEET = FleetModel(SERVER, 3, RoundRobin, start_s=0.2, drain_pause_s=0.1)
PLANS: dict[str, Plan] = {
    "a crash": Crash(0.05),
    "a silence": Silence(0.05),
    "a rollout with surge": RollOut(0.02, surge=True),
    "a rollout without": RollOut(0.02, surge=False),
}


def _calls(rate: float = 3_000, calls: int = 600, timeout_s: float = 1.0, seed: int = 0) -> Calls:
    return Calls.poisson(LENGTHS, rate, calls, timeout_s=timeout_s, seed=seed)


def _same(one: FleetResult, other: FleetResult) -> bool:
    return (
        one.ended_s.tolist() == other.ended_s.tolist()
        and one.endings.tolist() == other.endings.tolist()
        and one.used_core_s == other.used_core_s
    )


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=list(BALANCERS))
def test_a_fleet_of_one_is_the_simulated_server_to_the_last_bit(balancer: type[Balancer]) -> None:
    calls = _calls(rate=1_500)

    fleet = simulate_fleet(FleetModel(SERVER, 1, balancer), calls)

    [alone] = simulate([calls], SERVER).calls
    assert fleet.ended_s.tolist() == alone.ended_s.tolist()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([None, *PLANS]),
    balancer=st.sampled_from(list(BALANCERS.values())),
    balancers=st.integers(1, 3),
    rate=st.sampled_from([500, 4_000, 20_000]),
    timeout_s=st.sampled_from([0.01, 0.3, math.inf]),
    notice_s=st.sampled_from([0.0, 0.05]),
    detect_s=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 5),
)
def test_every_call_ends_once_and_none_before_it_was_made_or_long_after_its_deadline(
    kind: str | None,
    balancer: type[Balancer],
    balancers: int,
    rate: int,
    timeout_s: float,
    notice_s: float,
    detect_s: float,
    seed: int,
) -> None:
    if kind == "a silence" and timeout_s == math.inf:
        timeout_s = 0.3  # without a deadline its callers would wait for ever
    fleet = replace(
        FLEET,
        balancer=balancer,
        balancers=balancers,
        notice_s=notice_s,
        detect_s=detect_s,
        detect_silence_s=0.05,
        seed=seed,
    )
    calls = _calls(rate, calls=100, timeout_s=timeout_s, seed=seed)

    result = simulate_fleet(fleet, calls, [PLANS[kind]] if kind else [])

    assert sum(int(result.ended(ending).sum()) for ending in Ending) == 100
    took_s = result.ended_s - result.made_s
    assert (took_s > 0).all()
    assert took_s.max() <= timeout_s + SERVER.latency_s
    assert (took_s[result.ended(Ending.ANSWERED)] <= timeout_s).all()
    assert (result.attempts >= 1).all()
    assert (result.attempts <= fleet.attempts).all()


def test_without_faults_each_sequence_is_computed_once_whoever_gets_it() -> None:
    calls = _calls(timeout_s=math.inf)

    for balancer in BALANCERS.values():
        result = simulate_fleet(replace(FLEET, balancer=balancer), calls)
        assert sum(stats.sequences for stats in result.by_replica) == len(calls.lengths)
        assert sum(stats.steps for stats in result.by_replica) == calls.lengths.sum()
        assert result.goodput == 1


def test_no_more_core_time_is_used_than_is_granted_and_none_is_granted_to_who_is_gone() -> None:
    calls = _calls(rate=4_000)

    whole = simulate_fleet(FLEET, calls)
    crashed = simulate_fleet(replace(FLEET, start_s=math.inf), calls, [Crash(0.05)])

    assert 0 < whole.used_core_s <= whole.granted_core_s
    assert whole.granted_core_s == pytest.approx(3 * whole.seconds)
    # Two for all of the time, the third until it crashed, and its successor from then on.
    assert crashed.granted_core_s == pytest.approx(3 * crashed.seconds)


def test_equal_seeds_give_equal_results_and_others_others() -> None:
    fleet, calls, plan = replace(FLEET, balancer=Random), _calls(), [Crash(0.05)]

    first = simulate_fleet(fleet, calls, plan)

    assert _same(first, simulate_fleet(fleet, calls, plan))
    assert not _same(first, simulate_fleet(replace(fleet, seed=1), calls, plan))


@pytest.mark.parametrize("seed", range(3))
def test_least_request_is_no_worse_than_random_and_two_choices_lie_between(seed: int) -> None:
    calls = _calls(rate=4_500, calls=3_000, seed=seed)

    waits_s = {
        balancer: float(np.mean(result.ended_s - result.made_s))
        for balancer in (Random, TwoChoices, LeastRequest)
        for result in [simulate_fleet(replace(FLEET, balancer=balancer, seed=seed), calls)]
    }

    assert waits_s[LeastRequest] <= waits_s[TwoChoices] <= waits_s[Random]


def test_a_slow_replica_is_given_less_by_who_counts_calls_under_way() -> None:
    fleet = replace(FLEET, first=replace(SERVER, cores=0.25))
    calls = _calls(rate=3_000, calls=1_500)

    shares = {
        balancer: simulate_fleet(replace(fleet, balancer=balancer), calls).by_replica[0].sequences
        for balancer in (RoundRobin, LeastRequest)
    }

    assert shares[LeastRequest] < shares[RoundRobin]


def test_calls_of_a_replica_that_crashes_are_answered_by_the_others() -> None:
    result = simulate_fleet(FLEET, _calls(), [Crash(0.05)])

    assert result.share(Ending.ANSWERED) == 1
    assert (result.attempts == 2).any()


def test_a_crashed_replica_draws_calls_from_those_who_count_until_it_is_known() -> None:
    """It has none under way: that is why Envoy needs outlier ejection."""
    late = replace(FLEET, detect_s=0.1)

    tried_again = {
        balancer: int((result.attempts > 1).sum())
        for balancer in (RoundRobin, LeastRequest)
        for result in [simulate_fleet(replace(late, balancer=balancer), _calls(), [Crash(0.05)])]
    }

    assert tried_again[LeastRequest] > tried_again[RoundRobin] > 0


def test_a_silent_replica_costs_its_share_of_the_calls_and_least_request_hardly_any() -> None:
    calls = _calls(calls=1_200, timeout_s=0.5)

    expired = {
        balancer: result.share(Ending.EXPIRED)
        for balancer in (RoundRobin, LeastRequest)
        for result in [simulate_fleet(replace(FLEET, balancer=balancer), calls, [Silence(0.0)])]
    }

    assert expired[RoundRobin] == pytest.approx(1 / 3, abs=0.02)
    assert expired[LeastRequest] < 0.1


@pytest.mark.parametrize("surge", [True, False], ids=["surge", "no surge"])
def test_no_call_fails_or_is_tried_again_in_a_rollout_where_drains_are_known(surge: bool) -> None:
    seen: list[Fleet] = []

    result = simulate_fleet(FLEET, _calls(calls=6_000), [RollOut(0.1, surge=surge), seen.append])

    assert result.share(Ending.ANSWERED) == 1
    assert result.attempts.max() == 1
    [fleet] = seen
    states = [replica.state for replica in fleet.replicas]
    assert states == [State.STOPPED] * 3 + [State.SERVING] * 3


def test_a_pause_that_is_shorter_than_the_news_has_calls_tried_again() -> None:
    late = replace(FLEET, notice_s=0.3, drain_pause_s=0.0)
    calls = _calls(calls=6_000)

    without = simulate_fleet(late, calls, [RollOut(0.1, surge=True)])
    with_pause = simulate_fleet(replace(late, drain_pause_s=0.4), calls, [RollOut(0.1, surge=True)])

    assert (without.attempts > 1).any()
    assert with_pause.attempts.max() == 1


def test_where_all_are_gone_calls_end_unavailable_after_as_many_attempts_as_there_are() -> None:
    alone = replace(FLEET, replicas=1, start_s=math.inf)

    result = simulate_fleet(alone, _calls(calls=50, timeout_s=60.0), [Crash(0.0)])

    assert result.share(Ending.UNAVAILABLE) == 1
    assert set(result.attempts.tolist()) == {alone.attempts}


def test_beyond_what_it_can_do_a_fleet_refuses_and_answers_most_of_what_it_lets_in() -> None:
    result = simulate_fleet(FLEET, _calls(rate=12_000, calls=12_000))

    assert result.share(Ending.REFUSED) > 0.2
    assert result.share(Ending.ANSWERED) > 10 * result.share(Ending.EXPIRED)

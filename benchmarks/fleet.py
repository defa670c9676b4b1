"""Fleets, simulated: how many replicas a rate takes, and what breaks where something goes wrong.

Each replica is the server's own admission and policy under a virtual clock, told what runs and
calls cost on the machine of `latency`; nothing here takes real time, and equal seeds give equal
figures. What `virtual_fleet` leaves out is told in docs/scale.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Spread
from benchmarks.virtual_fleet.arrivals import Rate, arrivals, burst, diurnal, steady
from benchmarks.virtual_fleet.autoscaler import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Autoscaler,
    Pace,
    Rule,
    lanes_busy,
    queue_wait_p99_s,
)
from benchmarks.virtual_fleet.balancers import BALANCERS
from benchmarks.virtual_fleet.fleet import simulate_fleet
from benchmarks.virtual_fleet.model import FleetModel
from benchmarks.virtual_fleet.plans import Crash, Plan, RollOut, Silence
from benchmarks.virtual_fleet.result import Ending, FleetResult
from benchmarks.workloads import LONG_TAILED
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.simulation import Calls, simulate
from seqserve_server.scheduling.virtual_server import ServerModel

REPLICAS = 8
CLIENTS = 64
"""That balance for themselves."""
PROXIES = 4
SHARE = 0.6
"""Of what replicas can do, when all but one are there."""
CALLS_A_REPLICA = 400
AUTOSCALER = harness.ROOT / "deploy/kubernetes/components/autoscaling/autoscaler.yaml"


@dataclass(frozen=True)
class Traffic:
    """What callers ask for."""

    about: str
    size: int
    """Sequences of a call."""
    longer: int = 1
    """How many times the steps of the long-tailed workload a sequence has: where minutes are to be
    simulated, fewer and longer sequences keep the lanes as busy."""
    timeout_s: float = 1.0

    def lengths(self) -> NDArray[np.int64]:
        """Steps to draw from."""
        return LONG_TAILED.sequences(4_096).lengths * self.longer

    def calls(self, rate: Rate, highest: float, seconds: float, seed: int) -> Calls:
        """Calls of a rate in sequences a second."""
        size = self.size
        times_s = arrivals(lambda at: rate(at) / size, highest / size, seconds, seed)
        drawn = np.random.default_rng([seed, 1]).choice(self.lengths(), len(times_s) * size)
        sizes = np.full(len(times_s), size)
        return Calls(drawn, sizes, times_s, timeout_s=self.timeout_s)

    def capacity(self, server: ServerModel) -> float:
        """Sequences a second that a replica can do."""
        return _capacity(self, server)


@cache
def _capacity(traffic: Traffic, server: ServerModel) -> float:
    in_flight = max(16, 512 // traffic.size) * server.lanes
    calls = Calls.closed(traffic.lengths(), in_flight, 12 * in_flight, size=traffic.size)
    return simulate([calls], server).calls[0].sequences_per_s


SINGLE = Traffic("1 sequence a call", 1)
BATCHES = Traffic("32 sequences a call", 32)
LONG = Traffic("8 sequences a call, 8 times as long", 8, longer=8, timeout_s=2.0)

Row = dict[str, Any]


def main() -> None:
    """Simulates, prints and writes results/fleet.json."""
    quick = harness.quick(__doc__)
    server = measured_server(lanes=2)
    results: dict[str, list[Row]] = {}
    asked = scenarios(server, 0.1 if quick else 1.0)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        running = {
            name: {case: processes.submit(run) for case, run in runs.items()}
            for name, (_, runs) in asked.items()
        }
        for name, rows in running.items():
            results[name] = [{"case": case, **row.result()} for case, row in rows.items()]
            _show(asked[name][0], results[name])
    harness.write(
        "fleet",
        {
            "server": vars(server) | {"cost": vars(server.cost)},
            **results,
        },
    )


def measured_server(lanes: int) -> ServerModel:
    """What `latency` found runs and calls to cost, with so many lanes and cores."""
    path = harness.RESULTS / "latency.json"
    found = json.loads(path.read_text(encoding="utf-8"))["results"]["simulator"]
    one = ServerModel(**{**found, "cost": Coefficients(**found["cost"])})
    return replace(one, lanes=lanes, cores=lanes)


Run = Callable[[], Row]


def scenarios(server: ServerModel, part: float) -> Mapping[str, tuple[str, Mapping[str, Run]]]:
    """By name: what is asked, and the runs that answer it.

    Args:
        server: Each replica.
        part: Of their full length.
    """
    one = replace(server, lanes=1, cores=1)
    return {
        "lanes": ("Lanes of one replica, as many cores", _lanes(server)),
        "balancers": ("Who gets a call", _balancers(server, part)),
        "sizes": ("Replicas for a rate, of two lanes each", _sizes(server, part)),
        "losses": ("A replica of 8 is lost, at 0.6 of what they can do", _losses(one, part)),
        "rollouts": ("Each of 4 replicas is replaced, at 0.6", _rollouts(one, part)),
        "bursts": ("8 replicas under a load that changes", _bursts(one, part)),
        "autoscalers": ("An autoscaler", _autoscalers(one, part)),
    }


_WHO: dict[str, dict[str, Any]] = {
    f"round robin, {CLIENTS} clients": {
        "balancer": BALANCERS["round robin"],
        "balancers": CLIENTS,
    },
    "random": {"balancer": BALANCERS["random"]},
    "two choices, one proxy": {"balancer": BALANCERS["two choices"]},
    f"two choices, {PROXIES} proxies": {
        "balancer": BALANCERS["two choices"],
        "balancers": PROXIES,
    },
    "least request, one proxy": {"balancer": BALANCERS["least request"]},
}
_CLIENTS, _PROXY = _WHO[f"round robin, {CLIENTS} clients"], _WHO["two choices, one proxy"]


def _lanes(server: ServerModel) -> dict[str, Run]:
    return {
        f"{lanes}, {traffic.about}": partial(
            _most, replace(server, lanes=lanes, cores=lanes), traffic
        )
        for traffic in (SINGLE, BATCHES)
        for lanes in (1, 2, 4, 8)
    }


def _most(server: ServerModel, traffic: Traffic) -> Row:
    return {"sequences a second": traffic.capacity(server)}


def _balancers(server: ServerModel, part: float) -> dict[str, Run]:
    half = replace(server, cores=server.lanes / 2)
    seconds = 0.06 * part
    runs: dict[str, Run] = {}
    for who, options in _WHO.items():
        fleet = FleetModel(server, REPLICAS, **options)
        for load in (0.6, 0.9):
            runs[f"{who}, {load}"] = partial(_repeats, fleet, SINGLE, load, seconds)
        halved = replace(fleet, first=half)
        runs[f"{who}, 0.6, one of half the cores"] = partial(
            _repeats, halved, SINGLE, 0.6, 2 * seconds
        )
    return runs


def _repeats(fleet: FleetModel, traffic: Traffic, load: float, seconds: float) -> Row:
    """Three seeds, and the spread of what they showed."""
    rows = [
        _once(replace(fleet, seed=seed), traffic, steady, load, seconds, seed=seed)
        for seed in range(3)
    ]
    return {name: Spread.of([row[name] for row in rows]) for name in rows[0]}


def _once(
    fleet: FleetModel,
    traffic: Traffic,
    curve: Callable[[float], Rate],
    load: float,
    seconds: float,
    plan: tuple[Plan, ...] = (),
    *,
    times: float = 1.0,
    seed: int = 0,
) -> Row:
    """One run at a part of what the replicas can do.

    Args:
        fleet: What it is taken for.
        traffic: What callers ask for.
        curve: The rate by time, of the rate that the load comes to.
        load: Of what the replicas that are there from the beginning can do.
        seconds: Of calls.
        plan: What else happens.
        times: How many times that rate it reaches.
        seed: Of the draw.
    """
    rate = load * fleet.replicas * traffic.capacity(fleet.server)
    calls = traffic.calls(curve(rate), times * rate, seconds, seed)
    return figures(simulate_fleet(fleet, calls, plan))


def figures(result: FleetResult) -> Row:
    """What is told of every run."""
    answered = result.ended(Ending.ANSWERED)
    latencies_s = (result.ended_s - result.made_s)[answered]
    p50_s, p99_s = np.quantile(latencies_s, [0.5, 0.99]) if answered.any() else (math.nan,) * 2
    return {
        "calls": len(answered),
        "goodput": result.goodput,
        "worst second": result.worst_goodput(),
        "p50_ms": 1e3 * p50_s,
        "p99_ms": 1e3 * p99_s,
        **{each.name.lower(): int(result.ended(each).sum()) for each in Ending},
        "tried again": int((result.attempts > 1).sum()),
        "useful": result.useful_fraction,
        "used core-s a million": result.core_s_per_million(result.used_core_s),
        "granted core-s a million": result.core_s_per_million(result.granted_core_s),
    }


def _losses(server: ServerModel, part: float) -> dict[str, Run]:
    seconds, at_s = 12 * part, 1 * part
    clients = FleetModel(server, REPLICAS, **_CLIENTS, start_s=10.0)
    proxy = FleetModel(server, REPLICAS, **_PROXY, start_s=10.0)
    lost, silent = Crash(at_s), Silence(at_s)
    cases: dict[str, tuple[FleetModel, Plan]] = {
        "none": (clients, Crash(math.inf)),
        "crash, clients": (clients, lost),
        "crash, proxy, ejected": (replace(proxy, detect_s=0.1), lost),
        "crash, proxy, known after 6 s": (replace(proxy, detect_s=6.0), lost),
        "silence, clients, never known": (clients, silent),
        "silence, clients, after 10 s": (replace(clients, detect_silence_s=10.0), silent),
        "silence, proxy, never known": (proxy, silent),
        "silence, proxy, after 6 s": (replace(proxy, detect_silence_s=6.0), silent),
    }
    return {
        case: partial(_once, fleet, LONG, steady, 0.6, seconds, (plan,))
        for case, (fleet, plan) in cases.items()
    }


def _rollouts(server: ServerModel, part: float) -> dict[str, Run]:
    clients = FleetModel(server, 4, **_CLIENTS, start_s=3.0)
    proxy = FleetModel(server, 4, **_PROXY, start_s=3.0, notice_s=2.0)
    cases = {
        "surge, clients that watch": (clients, True, 0.0),
        "no surge, clients that watch": (clients, False, 0.0),
        "surge, proxy, no pause": (proxy, True, 0.0),
        "surge, proxy, pause of 5 s": (proxy, True, 5.0),
        "no surge, proxy, pause of 5 s": (proxy, False, 5.0),
    }
    return {
        case: partial(
            _once,
            replace(fleet, drain_pause_s=pause_s),
            LONG,
            steady,
            0.6,
            45 * part,
            (RollOut(1 * part, surge=surge),),
        )
        for case, (fleet, surge, pause_s) in cases.items()
    }


def _bursts(server: ServerModel, part: float) -> dict[str, Run]:
    fleet = FleetModel(server, REPLICAS, **_PROXY)
    high = partial(burst, times=3.0, begin_s=2 * part, end_s=12 * part)
    day = partial(diurnal, peak=1.8, day_s=20 * part)
    return {
        "burst × 3 from 0.25": partial(_once, fleet, LONG, high, 0.25, 20 * part, times=3.0),
        "burst × 3 from 0.5": partial(_once, fleet, LONG, high, 0.5, 20 * part, times=3.0),
        "day in 20 s, 0.5 on average": partial(_once, fleet, LONG, day, 0.5, 20 * part, times=1.8),
    }


def _autoscalers(server: ServerModel, part: float) -> dict[str, Run]:
    told = manifest_rule()
    bare = replace(told, up=DEFAULT_UP, down=DEFAULT_DOWN)
    busy = replace(told, measure=lanes_busy, target=0.6)
    peak = partial(burst, times=4.0, begin_s=60 * part, end_s=240 * part)
    return {
        f"burst × 4, {name}": partial(_scaled, server, rule, peak, 0.3, 4.0, 480 * part)
        for name, rule in {
            "deploy/kubernetes": told,
            "without `behavior`": bare,
            "lanes busy 0.6": busy,
        }.items()
    }


def manifest_rule() -> Rule:
    """What the autoscaler of deploy/kubernetes is told."""
    spec = yaml.safe_load(AUTOSCALER.read_text(encoding="utf-8"))["spec"]
    [metric] = spec["metrics"]
    return Rule(
        queue_wait_p99_s,
        target=_quantity(metric["pods"]["target"]["averageValue"]),
        least=spec["minReplicas"],
        most=spec["maxReplicas"],
        up=Pace.of(spec["behavior"]["scaleUp"]),
        down=Pace.of(spec["behavior"]["scaleDown"]),
    )


def _quantity(text: str) -> float:
    """A number as Kubernetes writes it, in thousandths too."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def _scaled(
    server: ServerModel,
    rule: Rule,
    curve: Callable[[float], Rate],
    load: float,
    times: float,
    seconds: float,
) -> Row:
    """A fleet that follows its load."""
    fleet = FleetModel(server, 2, **_PROXY, start_s=10.0)
    rate = load * fleet.replicas * LONG.capacity(server)
    calls = LONG.calls(curve(rate), times * rate, seconds, 0)
    scaler = Autoscaler(rule, seconds)
    told = figures(simulate_fleet(fleet, calls, (scaler,)))
    counts = [count for _, count in scaler.counts]
    return {**told, "replicas": counts}


def _sizes(server: ServerModel, part: float) -> dict[str, Run]:
    rates = (10_000, 100_000, 1_000_000) if part == 1 else (10_000, 100_000)
    return {
        f"{rate:,} sequences a second, {traffic.about}": partial(_size, server, traffic, rate)
        for traffic in (SINGLE, BATCHES)
        for rate in rates
    }


def _size(server: ServerModel, traffic: Traffic, rate: float) -> Row:
    """As many replicas as docs/operations.md takes, and what callers notice if one is missing."""
    replicas = math.ceil(rate / (SHARE * traffic.capacity(server))) + 1
    calls = traffic.calls(steady(rate), rate, CALLS_A_REPLICA * replicas * traffic.size / rate, 0)
    whole, missing = (
        simulate_fleet(FleetModel(server, count, **_PROXY), calls)
        for count in (replicas, replicas - 1)
    )
    return {
        "replicas": replicas,
        **figures(whole),
        "p99_ms, one missing": figures(missing)["p99_ms"],
    }


SHOWN = {
    "sequences a second": "sequences a second",
    "goodput": "goodput",
    "worst second": "worst s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "refused": "refused",
    "expired": "expired",
    "unavailable": "lost",
    "tried again": "retried",
    "useful": "useful",
    "used core-s a million": "used",
    "granted core-s a million": "granted",
    "replicas": "replicas",
    "p99_ms, one missing": "p99 ms one missing",
}
"""Figures by what heads their column; `used` and `granted` are core-seconds a million sequences."""


def _show(title: str, rows: list[Row]) -> None:
    columns = [each for each in SHOWN if any(row.get(each) for row in rows)]
    table = [(row["case"], *(short(row.get(each, "")) for each in columns)) for row in rows]
    harness.show(title, ("case", *(SHOWN[each] for each in columns)), table)


def short(figure: object) -> str:
    """A figure of a run as tables have it."""
    if isinstance(figure, Spread):
        figure = figure.median
    if isinstance(figure, list):
        return f"{min(figure)}–{max(figure)}"
    if isinstance(figure, float):
        return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
    return f"{figure}"


if __name__ == "__main__":
    main()

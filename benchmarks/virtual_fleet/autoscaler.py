"""How many replicas there should be: the rule of Kubernetes' HorizontalPodAutoscaler.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/

What it goes by is late: Prometheus scrapes, its rules look back, the adapter asks Prometheus, and
the autoscaler the adapter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from benchmarks.virtual_fleet.fleet import Fleet
from benchmarks.virtual_fleet.replica import Replica
from seqserve_server.scheduling.stats import Stats

Measure = Callable[[Stats, float], float]
"""A replica's metric, from what its lanes did in a while and the lane-seconds that it had."""


def queue_wait_p99_s(done: Stats, lane_s: float) -> float:
    """What `seqserve:queue_wait_seconds:p99_1m` tells."""
    return done.waits.quantile(0.99)


def lanes_busy(done: Stats, lane_s: float) -> float:
    """The part of their time in which lanes had something to run."""
    return (done.run_s + done.around_s) / lane_s


@dataclass(frozen=True)
class Policy:
    """How many replicas may come or go within a period."""

    kind: str
    """`Pods` or `Percent`."""
    value: float
    period_s: float

    def step(self, replicas: int) -> float:
        """Of so many."""
        return self.value if self.kind == "Pods" else replicas * self.value / 100


@dataclass(frozen=True)
class Pace:
    """How fast it may follow its wishes, in one direction."""

    policies: tuple[Policy, ...]
    """The one that allows most counts."""
    settle_s: float
    """A wish counts when all have been for so long."""

    @classmethod
    def of(cls, behavior: Mapping[str, Any]) -> Self:
        """As a manifest has it."""
        policies = [
            Policy(each["type"], each["value"], each["periodSeconds"])
            for each in behavior["policies"]
        ]
        return cls(tuple(policies), behavior["stabilizationWindowSeconds"])


DEFAULT_UP = Pace((Policy("Percent", 100, 15.0), Policy("Pods", 4, 15.0)), 0.0)
DEFAULT_DOWN = Pace((Policy("Percent", 100, 15.0),), 300.0)
"""Of a manifest without `behavior`."""


@dataclass(frozen=True)
class Rule:
    """What the autoscaler is told."""

    measure: Measure
    target: float
    """Of the metric, averaged over replicas."""
    least: int
    most: int
    up: Pace = DEFAULT_UP
    down: Pace = DEFAULT_DOWN
    period_s: float = 15.0
    window_s: float = 60.0
    """Over which the metric looks back."""
    delay_s: float = 30.0
    """How old it is: a scrape, and the interval of a recording rule."""
    tolerance: float = 0.1


def desired(rule: Rule, replicas: int, metrics: Sequence[float]) -> int:
    """How many there should be by the metric alone.

    Args:
        rule: Says what for.
        replicas: How many are wanted now.
        metrics: Of those that tell one.
    """
    if not metrics:
        return replicas
    ratio = sum(metrics) / len(metrics) / rule.target
    missing = replicas - len(metrics)
    if missing > 0:  # taken for idle where more are wanted, and for just right where fewer are
        filled = sum(metrics) + (0.0 if ratio > 1 else missing * rule.target)
        careful = filled / replicas / rule.target
        ratio = careful if (careful > 1) == (ratio > 1) else 1.0
    if abs(ratio - 1) <= rule.tolerance:
        return replicas
    return math.ceil(ratio * replicas - 1e-9)


@dataclass
class Pacer:
    """Holds wishes back to what the rule allows.

    Args:
        rule: Says what that is.
    """

    rule: Rule
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    def bounded(self, replicas: int, wish: int, now: float) -> int:
        """How many there are to be."""
        rule = self.rule
        self._wishes.append((now, wish))
        up = min(each for at, each in self._wishes if at >= now - rule.up.settle_s)
        down = max(each for at, each in self._wishes if at >= now - rule.down.settle_s)
        wish = max(min(replicas, down), up) if up > replicas else min(replicas, down)
        if wish > replicas:
            wish = min(wish, math.ceil(self._reach(rule.up, replicas, now, 1)))
        elif wish < replicas:
            wish = max(wish, math.floor(self._reach(rule.down, replicas, now, -1)))
        wish = min(max(wish, rule.least), rule.most)
        if wish != replicas:
            self._changes.append((now, wish - replicas))
        return wish

    def _reach(self, pace: Pace, replicas: int, now: float, sign: int) -> float:
        """As far as the policies allow, from where it stood at the beginning of their periods."""
        reach = []
        for policy in pace.policies:
            since = [
                change
                for at, change in self._changes
                if at > now - policy.period_s and change * sign > 0
            ]
            began = replicas - sum(since)
            reach.append(began + sign * policy.step(began))
        return max(reach) if sign > 0 else min(reach)


@dataclass
class Autoscaler:
    """Looks at a fleet again and again, until then.

    Args:
        rule: It goes by.
        until_s: When it ends.
    """

    rule: Rule
    until_s: float
    counts: list[tuple[float, int]] = field(default_factory=list)
    """When it looked, and how many served then."""

    def __post_init__(self) -> None:
        self._pacer = Pacer(self.rule)
        self._samples: dict[int, deque[tuple[float, Stats]]] = {}

    def __call__(self, fleet: Fleet) -> None:
        """As a plan."""
        fleet.at(self.rule.period_s, partial(self._look, fleet))

    def _look(self, fleet: Fleet) -> None:
        now = fleet.now
        if now >= self.until_s:
            return
        fleet.at(now + self.rule.period_s, partial(self._look, fleet))
        serving = fleet.serving
        self.counts.append((now, len(serving)))
        told = [self._metric(replica, now) for replica in serving]
        metrics = [each for each in told if each is not None]
        wish = desired(self.rule, fleet.wanted, metrics)
        wanted = self._pacer.bounded(fleet.wanted, wish, now)
        for _ in range(wanted - fleet.wanted):
            fleet.start()
        for replica in reversed(serving):  # the youngest go first, as Kubernetes has it
            if fleet.wanted > wanted:
                fleet.stop(replica)

    def _metric(self, replica: Replica, now: float) -> float | None:
        """What the autoscaler gets to see of a replica, if anything yet."""
        samples = self._samples.setdefault(replica.number, deque())
        samples.append((now, replica.server.stats.copy()))
        known = [each for each in samples if each[0] <= now - self.rule.delay_s]
        if len(known) < 2:
            return None
        last_s, last = known[-1]
        first_s, first = next(each for each in known if each[0] >= last_s - self.rule.window_s)
        while samples[0][0] < first_s:
            samples.popleft()
        return self.rule.measure(last.since(first), replica.model.lanes * (last_s - first_s))

"""Who gets the next call: what clients and proxies do, as pure policies.

A balancer sees only its own calls: that of a client those of this client, that of a proxy those of
everybody who calls through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np


class Balancer(ABC):
    """Chooses a replica for each call, and counts what it has under way at each.

    Args:
        seed: Of its random choices.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._under_way: Counter[int] = Counter()

    @abstractmethod
    def choose(self, replicas: Sequence[int]) -> int:
        """One of those that serve, as far as it is known; there is at least one."""

    def began(self, replica: int) -> None:
        """Notes a call to it."""
        self._under_way[replica] += 1

    def ended(self, replica: int) -> None:
        """Notes that the call is over, whatever became of it."""
        self._under_way[replica] -= 1

    def _any(self, replicas: Sequence[int]) -> int:
        return replicas[int(self._rng.integers(len(replicas)))]


class RoundRobin(Balancer):
    """One after the other, from anywhere: `round_robin` of gRPC's clients."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._turn = int(self._rng.integers(2**31))

    def choose(self, replicas: Sequence[int]) -> int:
        """The next one."""
        self._turn += 1
        return replicas[self._turn % len(replicas)]


class Random(Balancer):
    """Any."""

    def choose(self, replicas: Sequence[int]) -> int:
        """Any of them."""
        return self._any(replicas)


class LeastRequest(Balancer):
    """One of those with the fewest calls under way: Envoy's, with a choice of all."""

    def choose(self, replicas: Sequence[int]) -> int:
        """One with the fewest calls under way."""
        fewest = min(self._under_way[replica] for replica in replicas)
        return self._any([each for each in replicas if self._under_way[each] == fewest])


class TwoChoices(Balancer):
    """That of two, taken at random, which has fewer calls under way: Envoy's `LEAST_REQUEST`.

    Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
    """

    def choose(self, replicas: Sequence[int]) -> int:
        """The less busy of two."""
        first, second = self._any(replicas), self._any(replicas)
        return second if self._under_way[second] < self._under_way[first] else first


BALANCERS: dict[str, type[Balancer]] = {
    "round robin": RoundRobin,
    "random": Random,
    "two choices": TwoChoices,
    "least request": LeastRequest,
}

"""Who answers a job that is killed: the job itself, a service's replicas, nodes of a Ray cluster.

All but the first can be killed too, and come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.server_process import TRANSPORTS, Server
from seqserve_jobs.engines import ray_cluster

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

NODES = 2
"""Of a Ray cluster, beside a head that computes nothing."""
_NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
_NOTICED = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""That a node is dead: after seconds, not after half a minute."""


class Answerers(Protocol):
    """The processes beside the job that answer it."""

    words: list[str]
    """How `seqserve score` is told of them."""

    def __len__(self) -> int:
        """How many can be killed."""
        ...

    def replace(self, which: int) -> None:
        """Kills one, and has another come in its place."""
        ...


@dataclass
class _Here:
    words: list[str]

    def __len__(self) -> int:
        return 0

    def replace(self, which: int) -> None:
        raise IndexError(which)


@contextmanager
def embedded(models: Path) -> Iterator[Answerers]:
    """The job answers itself."""
    yield _Here(["--repository", str(models)])


class _Replicas:
    def __init__(self, models: Path) -> None:
        self._models = models
        self._running = [Server(models, transport, core=None) for transport in TRANSPORTS]
        self.words = ["--server", ",".join(replica.address for replica in self._running)]

    def __len__(self) -> int:
        return len(self._running)

    def replace(self, which: int) -> None:
        self._running[which].kill()
        self._running[which] = Server(
            self._models, TRANSPORTS[which], core=None, address=self._running[which].address
        )

    def stop(self) -> None:
        for replica in self._running:
            replica.stop()


@contextmanager
def service(models: Path) -> Iterator[Answerers]:
    """Two replicas, one on each transport."""
    replicas = _Replicas(models)
    try:
        yield replicas
    finally:
        replicas.stop()


class _Nodes:
    def __init__(self, cluster: Cluster, models: Path) -> None:
        self._cluster = cluster
        self._running = [cluster.add_node(**_NODE) for _ in range(NODES)]
        self.words = ["--repository", str(models), "--engine", "ray"]
        self.words += ["--ray-address", cluster.address, "--workers", str(NODES)]

    def __len__(self) -> int:
        return len(self._running)

    def replace(self, which: int) -> None:
        raylet = self._running[which].all_processes["raylet"][0].process
        raylet.kill()  # its workers end when they miss it
        raylet.wait()
        self._running[which] = self._cluster.add_node(**_NODE)


@contextmanager
def ray(models: Path) -> Iterator[Answerers]:
    """A cluster of this machine, of a worker a node."""
    os.environ[ray_cluster.USAGE_STATS] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": _NOTICED}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield _Nodes(cluster, models)
    finally:
        cluster.shutdown()


class Open(Protocol):
    """Has them there while the context lasts."""

    def __call__(self, models: Path, /) -> AbstractContextManager[Answerers]:
        """Args: models: The repository of what they answer with."""
        ...


ENGINES: dict[str, Open] = {"embedded": embedded, "service": service, "ray": ray}
"""By the engine of the job."""

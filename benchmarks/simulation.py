"""What the simulator says of the server that `latency` measures.

It is told nothing of the traffic it predicts: what runs cost is fitted in-process on the server's
core, what a call costs besides is the server's processor time at calls of a single step, and what
network and load generator add is the latency of such calls one at a time.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.calls import CLASSIFY, Calls
from benchmarks.load import Load
from benchmarks.server_process import SERVER_CORE, ServerProcess
from benchmarks.workloads import Workload
from seqserve import artifact
from seqserve_server.models import loading, sessions
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling import simulation
from seqserve_server.scheduling.cost import Coefficients
from seqserve_server.scheduling.virtual_server import ServerModel

FITS = 5
"""Of which the one with the median cost of a step is taken."""

_ONE_STEP = Workload("one step", "1 step", lambda _, count: np.ones(count, np.int64))
_LENGTHS = 4_096
_ROUNDS = 3


@dataclass(frozen=True)
class Simulator:
    """Predicts what a server with one lane on one core does with calls of one sequence."""

    server: ServerModel
    """What it is taken for."""

    @classmethod
    def of(cls, repository: Path, model: str, server: ServerProcess, in_flight: int) -> Simulator:
        """Of a server that runs, from its calls of a single step.

        Args:
            repository: The model repository.
            model: The model's name.
            server: Serves it.
            in_flight: Calls that saturate it.
        """
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            cost, max_row_steps = process.submit(_fitted, repository, model).result()
        calls = Calls(repository, model, _ONE_STEP.sequences(1_024), size=1)
        load = Load(server.address, CLASSIFY, calls.messages)
        enough = calls.warm(load, in_flight, seconds=1.0)
        before = server.cpu_seconds()
        calls.saturate(load, in_flight, enough)
        cpu_s = (server.cpu_seconds() - before) / enough
        alone_s = float(np.median(load.closed_loop(np.zeros(200, np.int64), 1).latencies_s))
        simulator = cls(ServerModel(cost, lanes=1, cores=1, max_row_steps=max_row_steps))
        for _ in range(_ROUNDS):  # what the lane's part is depends on how many calls share a turn
            simulator = simulator._with_calls_of(cpu_s, in_flight)
        return simulator._with_latency_of(alone_s)

    def throughput(self, workload: Workload, in_flight: int, calls: int = 4_000) -> float:
        """Calls a second with so many always unanswered."""
        lengths = workload.sequences(_LENGTHS).lengths
        closed = simulation.Calls.closed(lengths, in_flight, calls)
        return simulation.simulate([closed], self.server).calls[0].sequences_per_s

    def p99_ms(self, workload: Workload, rate: float, calls: int) -> float:
        """The 99th percentile of the latencies of calls that arrive at random."""
        lengths = workload.sequences(_LENGTHS).lengths
        poisson = simulation.Calls.poisson(lengths, rate, calls)
        return 1e3 * simulation.simulate([poisson], self.server).calls[0].latency_s(0.99)

    def _with_calls_of(self, cpu_s: float, in_flight: int, calls: int = 2_000) -> Simulator:
        """Takes a call to cost what of its processor time is not the lane's."""
        ones = np.ones(1, np.int64)
        closed = simulation.Calls.closed(ones, in_flight, calls)
        result = simulation.simulate([closed], self.server)
        lane_s = result.cores_busy * result.seconds / calls - self.server.call_s
        return Simulator(replace(self.server, call_s=max(0.0, cpu_s - lane_s)))

    def _with_latency_of(self, alone_s: float) -> Simulator:
        """Takes for the way what the server's part leaves of a call that comes alone."""
        alone = simulation.Calls.closed(np.ones(1, np.int64), 1, 50)
        simulated_s = simulation.simulate([alone], self.server).calls[0].latency_s(0.5)
        return Simulator(replace(self.server, latency_s=max(0.0, alone_s - simulated_s)))


def _fitted(repository: Path, model: str) -> tuple[Coefficients, int]:
    """What runs of the model cost on the server's core, and how large they may be."""
    os.sched_setaffinity(0, {SERVER_CORE})
    opener = sessions.opener(ExecutionProvider.CPU)
    folder = artifact.version_path(repository, model, 1)
    runners = [loading.load(folder, opener)[0].runner for _ in range(FITS)]
    middle = median(runner.cost.now.row_step for runner in runners)
    chosen = next(runner for runner in runners if runner.cost.now.row_step == middle)
    return chosen.cost.now, chosen.max_row_steps

"""Saturated throughput by policy: 32 sequences a request, server on one core, load on the other.

The baselines in-process have the same sequences, sorted by length beforehand, and pay nothing for
the wire, for checking or for padding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures, harness, stats
from benchmarks.calls import CLASSIFY, Calls
from benchmarks.figures import Figure
from benchmarks.harness import Spread, ratios
from benchmarks.load import Load
from benchmarks.models import BIDIRECTIONAL, NETWORKS, SMALL, WIDE, published
from benchmarks.offline import Offline
from benchmarks.server_process import CLIENT_CORE, ServerProcess, policy_server, server_with_stats
from benchmarks.stats import Stats
from benchmarks.workloads import BIMODAL, CONSTANT, LONG_TAILED, VOWELS, Workload

SIZE = 32
IN_FLIGHT = 16

CASES = (
    (SMALL, LONG_TAILED, 10_240),
    (SMALL, VOWELS, 10_240),
    (SMALL, CONSTANT, 10_240),
    (SMALL, BIMODAL, 5_120),
    (WIDE, LONG_TAILED, 2_560),
    (BIDIRECTIONAL, LONG_TAILED, 5_120),
)
"""Model, workload, and so many sequences that the oracle takes about a second."""

QUICK_CASES = (
    (SMALL, LONG_TAILED, 2_560),
    (SMALL, CONSTANT, 2_560),
    (WIDE, LONG_TAILED, 640),
)
"""Those that a target speaks of."""

Row = dict[str, Any]


def main() -> None:
    """Measures, prints and writes results/throughput.json."""
    quick = harness.quick(__doc__)
    os.sched_setaffinity(0, {CLIENT_CORE})
    with ExitStack() as stack:
        repository = stack.enter_context(published(SMALL, WIDE, BIDIRECTIONAL))
        servers = {
            "continuous": stack.enter_context(server_with_stats(repository)),
            "padded": stack.enter_context(policy_server(repository, "padded")),
            "bucketed": stack.enter_context(policy_server(repository, "bucketed")),
        }
        baselines = stack.enter_context(Offline())
        bench = _Bench(repository, servers, baselines, *((2, 0.3) if quick else (5, 0.8)))
        rows = [bench.case(*case) for case in (QUICK_CASES if quick else CASES)]
        lanes = {
            model: bench.stats_at_saturation(model, 3.0 if quick else 6.0)
            for model in (SMALL, WIDE)
        }
    harness.show(
        f"Sequences a second at saturation, {SIZE} a request, {IN_FLIGHT} requests in flight",
        ("model, lengths", *servers, "sorted oracle", "torch, packed"),
        [
            (f"{row['model']}, {row['workload']}", *(row[name] for name in (*servers, *_OFFLINE)))
            for row in rows
        ],
    )
    table = _table(rows, lanes)
    figures.show(table)
    logged = {model: [vars(each) for each in lines] for model, lines in lanes.items()}
    harness.write(
        "throughput",
        {"figures": [each.document() for each in table], "cases": rows, "stats": logged},
    )


_OFFLINE = ("oracle", "torch")


@dataclass(frozen=True)
class _Bench:
    """Where and how long to measure."""

    repository: Path
    servers: Mapping[str, ServerProcess]
    offline: Offline
    repeats: int
    seconds: float

    def case(self, model: str, workload: Workload, count: int) -> Row:
        """The figures of one model and workload, all taken in turn."""
        sequences, network = workload.sequences(count), NETWORKS[model]
        calls = Calls(self.repository, model, sequences, SIZE)
        measures: dict[str, harness.Measure] = {
            policy: self._saturation(calls, server) for policy, server in self.servers.items()
        }
        baselines = {
            "oracle": self.offline.sorted_oracle(self.repository, model, sequences),
            "torch": self.offline.packed_torch(
                network.hidden_size, network.num_layers, network.bidirectional, sequences
            ),
        }
        if model == WIDE:
            baselines["gemm"] = self.offline.gemm_peak(network.hidden_size)
        measures |= {name: baseline.measure for name, baseline in baselines.items()}
        taken = harness.in_turn(measures, self.repeats)
        mean_steps = sequences.steps / len(sequences)
        row = {
            "model": model,
            "workload": workload.name,
            "lengths": workload.about,
            "mean_steps": mean_steps,
            "about": {name: baseline.about for name, baseline in baselines.items()},
            **{name: Spread.of(each) for name, each in taken.items()},
            **{
                f"continuous ÷ {name}": ratios(taken["continuous"], taken[name])
                for name in ("oracle", "padded", "bucketed", "torch")
            },
        }
        if "gemm" in taken:
            # Multiplications and additions of the gates' products, a step: 4H × (K + H).
            flop = 2 * 4 * network.hidden_size * (network.features + network.hidden_size)
            useful = [rate * mean_steps * flop for rate in taken["continuous"]]
            row["useful FLOP/s ÷ peak"] = ratios(useful, taken["gemm"])
        return row

    def stats_at_saturation(self, model: str, seconds: float) -> list[Stats]:
        """What the server logged of whole intervals under full load."""
        server = self.servers["continuous"]
        calls = Calls(self.repository, model, LONG_TAILED.sequences(2_560), SIZE)
        load = Load(server.address, CLASSIFY, calls.messages)
        enough = calls.warm(load, IN_FLIGHT, seconds)
        before = len(server.printed)
        calls.saturate(load, IN_FLIGHT, enough)
        lines = server.printed[before:]
        return stats.read(lines)[1:]  # the first interval began before

    def _saturation(self, calls: Calls, server: ServerProcess) -> harness.Measure:
        load = Load(server.address, CLASSIFY, calls.messages)
        enough = calls.warm(load, IN_FLIGHT, self.seconds)
        return lambda: calls.saturate(load, IN_FLIGHT, enough)


def _table(rows: list[Row], lanes: Mapping[str, list[Stats]]) -> list[Figure]:
    by_case = {(row["model"], row["workload"]): row for row in rows}
    long_tailed = by_case[SMALL, LONG_TAILED.name]
    wide = by_case[WIDE, LONG_TAILED.name]
    around = {
        model: Spread.of([each.share_around for each in lines]) for model, lines in lanes.items()
    }
    idle = Spread.of([each.share_idle for each in lanes[SMALL]])
    given_way = Spread.of([each.share_given_way for each in lanes[SMALL]])
    return [
        Figure("oracle", long_tailed["continuous ÷ oracle"], long_tailed["about"]["oracle"]),
        Figure("padded", long_tailed["continuous ÷ padded"]),
        Figure("constant", by_case[SMALL, CONSTANT.name]["continuous ÷ padded"]),
        Figure("flops", wide["useful FLOP/s ÷ peak"], f"peak {_gflops(wide['gemm'])} GFLOP/s"),
        Figure(
            "around",
            around[SMALL],
            f"{SMALL}: {given_way} of it the transport on the same core; besides {idle} idle. "
            f"{WIDE}: {around[WIDE]}",
        ),
    ]


def _gflops(spread: Spread) -> str:
    return f"{spread.median / 1e9:.0f}"


if __name__ == "__main__":
    main()

"""The metrics, made when Prometheus asks: names and units by its conventions.

A label has few values: methods, statuses and errors are those of this program, models and versions
those of the repository. What is of a model is there as long as the repository has the model.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from seqserve.golden import Proof
from seqserve_server import memory
from seqserve_server.health import Health
from seqserve_server.models.repository import Entry, Repository, State
from seqserve_server.observability.histogram import Histogram
from seqserve_server.observability.metrics.calls import OK, Calls
from seqserve_server.observability.metrics.changes import HELD, Changes
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.stats import Stats

_CALL_SECONDS = (
    *(1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0),
)
_RUN_SECONDS = (
    *(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2),
    *(0.1, 0.25, 0.5, 1.0),
)
_ROWS = tuple(float(2**power) for power in range(11))
_STEPS = tuple(float(2**power) for power in range(14))


@dataclass(frozen=True)
class Sources:
    """What the metrics are made of."""

    calls: Calls
    changes: Changes
    repository: Repository
    health: Health
    scheduler: LaneScheduler | None
    """None where it is another's, of which nothing is known."""
    max_queue_steps: int
    processes: int
    """That share what memory was granted."""


class Families(Collector):
    """All metrics of a server, those of its process included.

    Args:
        sources: What they are made of.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        for family in self._families():
            yield family
            time.sleep(0)  # its text has been made: lanes that wait for the interpreter go first

    def _families(self) -> Iterator[Metric]:
        sources = self._sources
        known = {entry.name for entry in sources.repository.entries()} | {""}
        yield InfoMetricFamily(
            "seqserve_build",
            "Versions of seqserve and of onnxruntime.",
            {"version": version("seqserve"), "onnxruntime": _onnxruntime_version()},
        )
        yield GaugeMetricFamily(
            "seqserve_serving",
            "Whether grpc.health.v1 says SERVING of the server as a whole.",
            sources.health.serving,
        )
        yield from _of_calls(sources.calls, known)
        if sources.scheduler is not None:
            stats = sources.scheduler.stats_by_model()
            names = sorted(known - {""})  # at 0 from the start, or an increase would go unseen
            yield from _of_models({name: stats.get(name, Stats()) for name in names})
            yield from _of_lanes(sources.scheduler, sources.max_queue_steps)
        yield from _of_versions(sources.repository.entries(), sources.changes)
        yield from _of_changes(sources.changes, known)
        yield from self._process.collect()
        yield GaugeMetricFamily(
            "seqserve_memory_limit_bytes",
            "What this process may take of the memory that its cgroup grants.",
            memory.granted() // sources.processes,
        )


def _of_calls(calls: Calls, known: set[str]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "seqserve_requests", "Calls that ended.", labels=["model", "method", "code"]
    )
    durations = HistogramMetricFamily(
        "seqserve_request_duration_seconds",
        "From the arrival of a call to its answer; of answered calls.",
        labels=["model", "method"],
    )
    refusals = CounterMetricFamily(
        "seqserve_refusals", "Calls that were refused.", labels=["model", "reason"]
    )
    counted: Counter[tuple[str, ...]] = Counter()
    refused: Counter[tuple[str, ...]] = Counter()
    for kind, latencies in sorted(calls.by_kind().items()):
        if kind.model in known:
            counted[kind.model, kind.method, kind.code] += latencies.count
            if kind.reason:
                refused[kind.model, kind.reason] += latencies.count
            if kind.code == OK:
                _add(durations, [kind.model, kind.method], latencies, _CALL_SECONDS)
    _count(requests, counted.items())
    _count(refusals, refused.items())
    yield from (requests, durations, refusals)


def _of_models(models: dict[str, Stats]) -> Iterator[Metric]:
    counters = {
        "seqserve_sequences": ("Sequences answered.", "sequences"),
        "seqserve_useful_steps": ("Steps asked for, of the runs that were run.", "steps"),
        "seqserve_computed_steps": (
            "Rows times steps computed, padding included.",
            "computed_steps",
        ),
    }
    for name, (text, field) in counters.items():
        family = CounterMetricFamily(name, text, labels=["model"])
        _count(family, [([model], getattr(stats, field)) for model, stats in models.items()])
        yield family
    waits = HistogramMetricFamily(
        "seqserve_queue_wait_seconds",
        "From the admission of a sequence to its first run.",
        labels=["model", "service_class"],
    )
    for model, stats in models.items():
        _add(waits, [model, "interactive"], stats.waits, _CALL_SECONDS)
        _add(waits, [model, "bulk"], stats.bulk_waits, _CALL_SECONDS)
    yield waits
    histograms = {
        "seqserve_run_duration_seconds": ("Of a run in onnxruntime.", "run_times", _RUN_SECONDS),
        "seqserve_run_rows": ("Sequences that ran together.", "rows_a_run", _ROWS),
        "seqserve_run_steps": ("Steps that a run advanced.", "steps_a_run", _STEPS),
    }
    for name, (text, field, bounds) in histograms.items():
        histogram = HistogramMetricFamily(name, text, labels=["model"])
        for model, stats in models.items():
            _add(histogram, [model], getattr(stats, field), bounds)
        yield histogram


def _of_lanes(scheduler: LaneScheduler, max_queue_steps: int) -> Iterator[Metric]:
    stats = scheduler.stats()
    yield GaugeMetricFamily(
        "seqserve_queue_steps", "Steps under way: waiting and in play.", scheduler.queue_steps
    )
    yield GaugeMetricFamily(
        "seqserve_queue_limit_steps", "Steps that may be under way.", max_queue_steps
    )
    yield GaugeMetricFamily("seqserve_lanes", "Lanes that live.", scheduler.lanes_alive)
    yield GaugeMetricFamily(
        "seqserve_lanes_busy", "Lanes that have something to run.", scheduler.lanes_busy
    )
    yield CounterMetricFamily(
        "seqserve_lane_deaths", "Lanes that died and were replaced.", scheduler.lanes_died
    )
    yield GaugeMetricFamily(
        "seqserve_lanes_missing",
        "Lanes that died and could not be replaced.",
        scheduler.lanes_missing,
    )
    yield GaugeMetricFamily(
        "seqserve_lane_longest_turn_seconds",
        "Since the slowest lane that has something to run was seen between two turns.",
        scheduler.longest_turn_s(),
    )
    caution = GaugeMetricFamily(
        "seqserve_admission_caution_ratio",
        "How many times its prediction a wait is taken for when work is let in.",
        labels=["service_class"],
    )
    for service_class, factor in scheduler.caution().items():
        caution.add_metric([service_class.name.lower()], factor)
    yield caution
    seconds = CounterMetricFamily(
        "seqserve_lane_seconds",
        "How lanes spent their time: in runs, around runs, giving way, idle.",
        labels=["activity"],
    )
    _count(
        seconds,
        [
            (["run"], stats.run_s),
            (["around"], stats.around_s),
            (["giving_way"], stats.given_way_s),
            (["idle"], stats.idle_s),
        ],
    )
    yield seconds


def _of_versions(entries: Iterable[Entry], changes: Changes) -> Iterator[Metric]:
    by_version = {(entry.name, entry.version): entry for entry in entries}
    info = GaugeMetricFamily(
        "seqserve_model_info",
        "1 for each version that the server knows: what it is and where it is in its life.",
        labels=["model", "version", "digest", "execution_provider", "state", "golden_set"],
    )
    ready = GaugeMetricFamily(
        "seqserve_model_ready", "Whether a version answers.", labels=["model", "version"]
    )
    difference = GaugeMetricFamily(
        "seqserve_model_golden_max_difference",
        "Largest difference to the golden set's logits and probabilities on this host.",
        labels=["model", "version"],
    )
    for key, proof in changes.proofs(by_version.keys()).items():
        entry = by_version[key]
        labels = [entry.name, str(entry.version)]
        provider = entry.model.execution_provider if entry.model else ""
        held = proof if isinstance(proof, str) else HELD
        info.add_metric([*labels, entry.digest, provider, entry.state.value, held], 1)
        ready.add_metric(labels, entry.state is State.READY and not entry.ailing)
        if isinstance(proof, Proof):
            difference.add_metric(labels, proof.max_difference)
    yield from (info, ready, difference)


def _of_changes(changes: Changes, known: set[str]) -> Iterator[Metric]:
    counts = changes.counts()
    looks = CounterMetricFamily(
        "seqserve_repository_reloads", "Looks at the repository.", labels=["result"]
    )
    _count(looks, [(["done"], counts.looks[True]), (["failed"], counts.looks[False])])
    loads = CounterMetricFamily(
        "seqserve_model_loads", "Versions that became ready.", labels=["model"]
    )
    _count(loads, [([name], count) for name, count in counts.loads.items() if name in known])
    refusals = CounterMetricFamily(
        "seqserve_model_refusals", "Versions that were refused.", labels=["model", "reason"]
    )
    _count(refusals, [each for each in counts.refusals.items() if each[0][0] in known])
    yield from (looks, loads, refusals)


def _count(family: CounterMetricFamily, counts: Iterable[tuple[Sequence[str], float]]) -> None:
    for labels, count in counts:
        family.add_metric(labels, count)


def _add(
    family: HistogramMetricFamily, labels: Sequence[str], values: Histogram, bounds: Sequence[float]
) -> None:
    counts = zip(map(floatToGoString, bounds), values.not_above(bounds), strict=True)
    family.add_metric(labels, [*counts, ("+Inf", values.count)], values.total)


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)

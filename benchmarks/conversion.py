"""Time and memory of converting, proving and publishing, by the size of the model.

Each figure is of a process of its own, on one core. Its peak memory is given beside what it
held before it began, with everything imported and the model made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Figures:
    """What one process measured."""

    parameters: int
    artifact_mib: float
    publish_s: float
    prove_again_s: float
    held_before_mib: float
    peak_mib: float


MODELS: dict[str, dict[str, Any]] = {
    "lstm 64": {"hidden_size": 64},
    "lstm 64, both ways, mean": {"hidden_size": 64, "bidirectional": True, "head": "mean"},
    "gru 128, 2 layers": {"cell": "gru", "hidden_size": 128, "num_layers": 2},
    "lstm 256, 2 layers": {"hidden_size": 256, "num_layers": 2},
    "lstm 256, 2 layers, 5,000 steps": {
        "hidden_size": 256,
        "num_layers": 2,
        "longest_steps": 5_000,
    },
    "lstm 1024 projected to 256, 2 layers": {
        "hidden_size": 1024,
        "proj_size": 256,
        "num_layers": 2,
    },
}
"""Fields of NetworkConfig, and steps of the longest training sequence where it is not 29."""


def main() -> None:
    """Measures, prints and writes results/conversion.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--measure", metavar="MODEL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(asdict(_measure(MODELS[arguments.measure]))))
        return
    repeats = 1 if arguments.quick else 3
    results = {name: _spread([_in_a_process(name) for _ in range(repeats)]) for name in MODELS}
    harness.show(
        "Converting, proving and publishing a model, one core",
        (
            "model",
            "parameters",
            "artifact MiB",
            "publish, s",
            "prove again, s",
            "peak MiB (before)",
        ),
        [
            (
                name,
                f"{result['parameters'].median:,.0f}",
                f"{result['artifact_mib'].median:.2f}",
                f"{result['publish_s'].median:.2f}",
                f"{result['prove_again_s'].median:.2f}",
                f"{result['peak_mib'].median:.0f} ({result['held_before_mib'].median:.0f})",
            )
            for name, result in results.items()
        ],
    )
    harness.write("conversion", [{"model": name, **result} for name, result in results.items()])


def _in_a_process(name: str) -> Figures:
    # A child's peak begins at its parent's size, so this process imports nothing large.
    command = [sys.executable, "-m", "benchmarks.conversion", "--measure", name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Figures(**json.loads(output))


def _spread(figures: list[Figures]) -> dict[str, harness.Spread]:
    rows = [asdict(each) for each in figures]
    return {name: harness.Spread.of([row[name] for row in rows]) for name in rows[0]}


def _measure(options: dict[str, Any]) -> Figures:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    from benchmarks.models import random_model
    from seqserve_export.network import NetworkConfig
    from seqserve_export.publish import publish
    from seqserve_export.verify import verify

    torch.set_num_threads(1)
    shape = {"features": 12, "classes": 9, **options}
    longest_steps = shape.pop("longest_steps", 29)
    trained = random_model(NetworkConfig(**shape), longest_steps)
    held_before = _peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        published = publish(trained, Path(folder), "bench")
        peak = _peak_mib()
        begin = time.perf_counter()
        verify(published.folder)
        return Figures(
            parameters=sum(each.numel() for each in trained.network.parameters()),
            artifact_mib=sum(file.bytes for file in published.manifest.files) / MEBIBYTE,
            publish_s=published.seconds,
            prove_again_s=time.perf_counter() - begin,
            held_before_mib=held_before,
            peak_mib=peak,
        )


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEBIBYTE if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    main()

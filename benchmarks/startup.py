"""Startup: how soon a server with one small model is ready, in what memory; the client's import."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.models import publish_random
from benchmarks.server_process import TRANSPORTS, Server
from seqserve_export.network import NetworkConfig

IMPORT = "from seqserve_client import Client"
NETWORK = NetworkConfig(features=12, classes=9)


def main() -> None:
    """Measures, prints and writes results/startup.json."""
    repeats = 3 if harness.quick(__doc__) else 7
    memory: dict[str, list[float]] = {transport: [] for transport in TRANSPORTS}
    with tempfile.TemporaryDirectory() as folder:
        publish_random(Path(folder), "small", NETWORK)

        def start(transport: str) -> float:
            begin = time.perf_counter()
            server = Server(Path(folder), transport, core=0)
            seconds = time.perf_counter() - begin
            memory[transport].append(server.resident_mib())
            server.stop()
            return seconds

        figures = harness.in_turn(
            {
                IMPORT: _import_client,
                **{name: lambda name=name: start(name) for name in TRANSPORTS},  # type: ignore[misc]
            },
            repeats,
        )
    results = [
        {
            "what": f"seqserve serve, {transport}: ready",
            "seconds": harness.Spread.of(figures[transport]),
            "resident_mib": harness.Spread.of(memory[transport]),
        }
        for transport in TRANSPORTS
    ]
    imported = harness.Spread.of(figures[IMPORT])
    results.append({"what": IMPORT, "seconds": imported})
    harness.show(
        "From the start of the process, on one core",
        ("what", "seconds", "resident MiB"),
        [(each["what"], each["seconds"], each.get("resident_mib", "")) for each in results],
    )
    harness.write("startup", results)


def _import_client() -> float:
    """Seconds to import the client, over those that Python alone takes to start."""
    return _run(IMPORT) - _run("pass")


def _run(program: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

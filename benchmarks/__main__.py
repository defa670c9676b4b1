"""Runs the benchmarks of model and server, one after the other, each in a process of its own.

Those of jobs, containers and fleets take long, or an engine, and have commands of their own.
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "startup",
    "serving",
    "conversion",
    "throughput",
    "single_calls",
    "latency",
    "bulk",
    "lanes",
    "coalescing",
    "observation",
)

for name in (*BENCHMARKS, "table"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
if "--quick" not in sys.argv:
    for name in ("plot", "pages"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)

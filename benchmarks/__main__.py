"""Runs every benchmark, one after the other, each in a process of its own."""

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
    "jobs",
)

for name in (*BENCHMARKS, "table"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
if "--quick" not in sys.argv:
    subprocess.run([sys.executable, "-m", "benchmarks.plot"], check=True)

"""Runs the benchmarks of model and server, one after the other, each in a process of its own.

Those of jobs, containers and fleets take long, or an engine, and have commands of their own. With
`--quick` those run alone that the scheduler is judged by.
"""

from __future__ import annotations

import subprocess
import sys

OF_THE_SCHEDULER = ("throughput", "single_calls", "latency", "bulk", "lanes", "coalescing")
OTHERS = ("startup", "serving", "conversion", "observation")

for name in (*OF_THE_SCHEDULER, *(() if "--quick" in sys.argv else OTHERS), "table"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
if "--quick" not in sys.argv:
    for name in ("plot", "pages"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)

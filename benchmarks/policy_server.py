"""`python -m benchmarks.policy_server REPOSITORY --policy P`: the real server, another scheduler.

Process, transport, decoding, validation and encoding are the product's; only what decides which
rows run next is exchanged. It prints what `seqserve serve` prints.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from benchmarks.baselines import LengthBucketed, PaddedFifo
from seqserve_server import process
from seqserve_server.observability import logs
from seqserve_server.options import LogFormat, LogLevel, Transport
from seqserve_server.scheduling.work import Scheduler
from seqserve_server.settings import Settings

POLICIES: dict[str, Callable[[Settings], Scheduler] | None] = {
    "continuous": None,
    "padded": lambda settings: PaddedFifo(
        lanes=settings.lanes, max_queue_steps=settings.max_queue_steps
    ),
    "bucketed": lambda settings: LengthBucketed(
        lanes=settings.lanes, max_queue_steps=settings.max_queue_steps
    ),
}
"""Makes the scheduler; None for the server's own."""


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--policy", choices=POLICIES, default="continuous")
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--transport", type=Transport, default=Transport.NATIVE)
    parser.add_argument("--lanes", type=int, default=1)
    options = parser.parse_args()
    logs.to_stderr(LogLevel.INFO, LogFormat.CONSOLE)
    settings = Settings(
        options.repository,
        address=options.address,
        transport=options.transport,
        lanes=options.lanes,
        metrics_address="127.0.0.1:0",  # every policy pays for what the product counts
    )
    asyncio.run(process.serve(settings, POLICIES[options.policy]))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.policy_server REPOSITORY --policy P`: the real server, another scheduler.

Transport, decoding, validation and encoding are the product's; only what decides which rows run
next is exchanged. It prints what `seqserve serve` prints.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.baselines import LengthBucketed, PaddedFifo
from seqserve_server.observability import logs
from seqserve_server.options import LogFormat, LogLevel, Transport
from seqserve_server.scheduling.work import Scheduler
from seqserve_server.serving import Server
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
    asyncio.run(_serve(settings, POLICIES[options.policy]))


async def _serve(
    settings: Settings, make_scheduler: Callable[[Settings], Scheduler] | None
) -> None:
    begin = time.monotonic()
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    async with Server(settings, make_scheduler=make_scheduler) as server:
        names = ", ".join(f"{entry.name} {entry.version}" for entry in server.entries)
        logging.info("ready in %.2f s: %s", time.monotonic() - begin, names)
        await terminated.wait()


if __name__ == "__main__":
    main()

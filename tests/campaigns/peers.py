"""Slow and hostile peers: what other callers notice, and what the server keeps of them.

Beside each attack, and without it in turn, calls of one sequence arrive at random moments. All are
answered, and once the attackers have connected, their p99 may double. The server's memory stays
within a bound, and when the peers have gone, so have their descriptors.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

from benchmarks import harness as benches
from benchmarks.calls import CLASSIFY, Calls, WrongAnswer, p99_ms
from benchmarks.harness import Spread
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.server_process import CLIENT_CORE, TRANSPORTS, Server
from benchmarks.workloads import VOWELS
from tests.campaigns import harness
from tests.campaigns.attacks import ATTACKS, Attack, attacked
from tests.campaigns.harness import Claims

RATE = 300.0
MOST_MIB = 192.0
"""What an attack may add: 5,000 connections at some 30 KiB each, and as much again as slack."""
_LEVEL_S = 30.0


def main() -> None:
    """Measures, prints and writes results/peers.json."""
    options = harness.parser(__doc__).parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    claims, figures = Claims(), {}
    with published(SMALL) as repository:
        for transport in [options.transport] if options.transport else TRANSPORTS:
            figures[transport] = {
                attack.__name__: peers(repository, transport, attack, claims, quick=options.quick)
                for attack in ATTACKS
            }
    harness.finish("peers", "Slow and hostile peers", claims, figures)


def peers(
    repository: Path, transport: str, attack: Attack, claims: Claims, *, quick: bool
) -> dict[str, object]:
    """Attacks one server."""
    requests, repeats = (300, 3) if quick else (1_500, 5)
    with Server(repository, transport) as server:
        calls = Calls(repository, SMALL, VOWELS.sequences(512), 1)
        load = Load(server.address, CLASSIFY, calls.messages)
        calls.warm(load, 4, 0.5)
        before_mib, before = server.resident_mib(), server.descriptors()
        most_mib = [before_mib]
        unanswered: list[str] = []

        def measure(beside: bool) -> float:
            attackers = (
                attacked(attack, server.address, calls.messages[0]) if beside else nullcontext()
            )
            try:
                with attackers:
                    calls.warm(load, 4, 0.5)  # meanwhile the attackers have connected
                    p99 = p99_ms(calls.arrive(load, RATE, requests, 1))
                    most_mib.append(server.resident_mib())
            except WrongAnswer as error:
                unanswered.append(str(error))
                return math.nan
            return p99

        taken = benches.in_turn(
            {"alone": lambda: measure(False), "beside": lambda: measure(True)}, repeats
        )
        level = wait_for_level(server, before)
    where = f"{transport}, {attack.__name__}"
    claims.hold(where, "others' calls are answered", unanswered or "all", not unanswered)
    ratio = benches.ratios(taken["beside"], taken["alone"])
    claims.hold(where, "others' p99 ÷ alone ≤ 2", ratio, ratio.median <= 2)
    grown = max(most_mib) - before_mib
    claims.hold(where, f"memory grows ≤ {MOST_MIB:.0f} MiB", f"{grown:.0f} MiB", grown <= MOST_MIB)
    claims.hold(where, f"descriptors afterwards ≤ {before}", level, level <= before)
    return {"ratio": ratio, **{name: Spread.of(each) for name, each in taken.items()}, "mib": grown}


def wait_for_level(server: Server, descriptors: int) -> int:
    """Descriptors once they are back, or after a while."""
    end = time.monotonic() + _LEVEL_S
    while server.descriptors() > descriptors and time.monotonic() < end:
        time.sleep(0.05)
    return server.descriptors()


if __name__ == "__main__":
    main()

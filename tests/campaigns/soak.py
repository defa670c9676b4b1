"""A long run of everything at once: every answer right, none lost, none doubled, nothing grows.

Callers send requests of mixed sizes, urgency and kind through the Python client and through a bare
channel; some leave, some give too little time; the repository is reloaded meanwhile, and versions
come and go. Every answer is held against the sequence alone, in-process, bit for bit.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.models import publish_random
from benchmarks.server_process import TRANSPORTS, Server
from benchmarks.workloads import FEATURES
from seqserve import artifact
from seqserve_client import Client, DeadlineExceeded, ModelNotFound, ModelState, Overloaded
from seqserve_export.network import NetworkConfig
from tests.campaigns import counted, harness
from tests.campaigns.harness import Claims
from tests.campaigns.pool import SequencePool

SEQUENCES, QUICK_SEQUENCES = 1_000_000, 20_000
CALLERS = 6
MODELS = {
    "lstm": NetworkConfig(features=FEATURES, classes=9, hidden_size=16, num_layers=2),
    "gru": NetworkConfig(features=FEATURES, classes=9, cell="gru", hidden_size=16),
    "both-ways": NetworkConfig(features=FEATURES, classes=9, hidden_size=16, bidirectional=True),
}
_SIZES = (1, 1, 1, 2, 3, 8, 40, 300)
_LONGEST_STEPS = 300
_POOL = 400
_PATIENCE_S = 60.0
_POLL_S = "0.5"
_SETTLE_S = 0.05
_REPUBLISH_S = 2.0
_REPORT_S = 10.0
_GROWN = 1.1
_SLACK_MIB = 16.0


@dataclass
class Outcome:
    """What became of the calls so far."""

    sequences: int = 0
    """Answered, and right."""
    classified: int = 0
    """Calls of Classify that were answered."""
    ends: Counter[str] = field(default_factory=Counter)
    """Calls, by how they ended."""
    versions: set[int] = field(default_factory=set)
    """That have answered."""
    wrong: list[str] = field(default_factory=list)
    """What must not be."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(
        self, end: str, sequences: int = 0, wrong: str = "", *, classified: bool = False
    ) -> None:
        """Notes the end of a call."""
        with self.lock:
            self.classified += classified
            self.ends[end] += 1
            self.sequences += sequences
            if wrong:
                self.wrong.append(wrong)


def main() -> None:
    """Runs, prints and writes results/soak.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--sequences", type=int, help="how many, on each transport")
    options = parser.parse_args()
    count = options.sequences or (QUICK_SEQUENCES if options.quick else SEQUENCES)
    claims, figures = Claims(), {}
    for transport in [options.transport] if options.transport else TRANSPORTS:
        figures[transport] = soak(transport, count, claims)
    harness.finish("soak", f"{count:,} sequences, everything at once", claims, figures)


def soak(
    transport: str, count: int, claims: Claims, *, least_versions: int = 2
) -> dict[str, object]:
    """Soaks one server until so many sequences, and versions, have answered."""
    with ExitStack() as stack:
        repository = Path(stack.enter_context(TemporaryDirectory()))
        for name, network in MODELS.items():
            publish_random(repository, name, network, _LONGEST_STEPS)
        pools = {name: SequencePool(repository, name, _POOL, _LONGEST_STEPS) for name in MODELS}
        options = ("--poll", _POLL_S)
        server = stack.enter_context(Server(repository, transport, core=None, options=options))
        outcome, began = Outcome(), time.monotonic()
        client = stack.enter_context(Client(server.address, timeout_s=_PATIENCE_S))
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        # Caches, arenas and the first changes of versions are no growth.
        _call_until(count // 10, client, channel, pools, outcome, 0, 0)
        client.models()  # has a connection of its own
        mib, descriptors = server.resident_mib(), server.descriptors()
        over = threading.Event()
        beside = [
            threading.Thread(target=_republish, args=(repository, client, over)),
            threading.Thread(target=_report, args=(server, outcome, count, over)),
        ]
        for thread in beside:
            thread.start()
        try:
            _call_until(count, client, channel, pools, outcome, 1, least_versions)
        finally:
            over.set()
            for thread in beside:
                thread.join()
        seconds = time.monotonic() - began
        _hold(claims, transport, outcome, server, mib, descriptors, count)
        versions = len(outcome.versions)
        claims.hold(
            transport,
            f"versions that answered ≥ {least_versions}",
            versions,
            versions >= least_versions,
        )
        status = server.stop()
        claims.hold(transport, "the server ends as told", status, status == 0)
    return {
        "sequences": outcome.sequences,
        "calls": dict(outcome.ends),
        "seconds": seconds,
        "sequences_per_second": outcome.sequences / seconds,
    }


def _hold(
    claims: Claims,
    transport: str,
    outcome: Outcome,
    server: Server,
    mib: float,
    descriptors: int,
    count: int,
) -> None:
    answered = outcome.sequences
    claims.hold(transport, f"sequences answered ≥ {count:,}", f"{answered:,}", answered >= count)
    claims.hold(
        transport,
        "answers that differ or are lost: 0",
        outcome.wrong[:3] or 0,
        not outcome.wrong,
    )
    for end in ("answered", "left", "late"):  # or the run shows nothing
        claims.hold(transport, f"calls {end} > 0", f"{outcome.ends[end]:,}", outcome.ends[end] > 0)
    # Who left may have left an answer behind; beyond those, one more would be an answer doubled.
    least, most = (
        outcome.classified,
        outcome.classified + outcome.ends["left"] + outcome.ends["late"],
    )
    told = _counted(server, least)
    claims.hold(
        transport,
        f"Classify calls that the server has answered: {least:,} to {most:,}",
        f"{told:,}",
        least <= told <= most,
    )
    grown = server.resident_mib()
    bound = _GROWN * mib + _SLACK_MIB
    level = f"memory ≤ {bound:.0f} MiB, {mib:.0f} before"
    claims.hold(transport, level, f"{grown:.0f} MiB", grown <= bound)
    now = server.descriptors()
    claims.hold(transport, f"descriptors ≤ {descriptors + 4}", now, now <= descriptors + 4)


def _counted(server: Server, least: int) -> int:
    """By the server's own metrics; a call is counted once its answer has left."""
    until = time.monotonic() + _PATIENCE_S
    while (answered := counted.calls(server, "Classify")["OK"]) < least:
        if time.monotonic() > until:
            break
        time.sleep(_SETTLE_S)
    return answered


def _call_until(
    count: int,
    client: Client,
    channel: grpc.Channel,
    pools: dict[str, SequencePool],
    outcome: Outcome,
    seed: int,
    least_versions: int,
) -> None:
    """Calls until so many sequences have been answered, and by so many versions."""

    def call(caller: int) -> None:
        draw = random.Random(CALLERS * seed + caller)
        caller_of = _Caller(client, channel, pools, outcome, draw)
        while not outcome.wrong and (
            outcome.sequences < count or len(outcome.versions) < least_versions
        ):
            caller_of.call()

    with ThreadPoolExecutor(CALLERS) as threads:
        list(threads.map(call, range(CALLERS)))


@dataclass
class _Caller:
    client: Client
    channel: grpc.Channel
    pools: dict[str, SequencePool]
    outcome: Outcome
    draw: random.Random

    def call(self) -> None:
        """One call of a kind that is drawn."""
        draw = self.draw
        pool = self.pools[draw.choice(list(self.pools))]
        chosen = np.array([draw.randrange(_POOL) for _ in range(draw.choice(_SIZES))])
        kind = draw.choice(("patient", "patient", "patient", "hurried", "leaving", "live"))
        if kind == "leaving":
            self._leave(pool, chosen)
        elif kind == "live" and pool.forward_only:
            self._live(pool, int(chosen[0]))
        else:
            self._classify(pool, chosen, 0.01 if kind == "hurried" else _PATIENCE_S)

    def _classify(self, pool: SequencePool, chosen: NDArray[np.int64], timeout_s: float) -> None:
        try:
            answer = self.client.classify(
                pool.sequences(chosen),
                model=pool.model,
                timeout_s=timeout_s,
                service_class=self.draw.choice(("interactive", "bulk")),
            )
        except DeadlineExceeded:
            self.outcome.note("late", wrong="" if timeout_s < 1 else "a patient call was late")
        except Overloaded:
            self.outcome.note("refused")
        else:
            self.outcome.versions.add(answer.model_version)
            wrong = pool.wrong(chosen, answer.logits)
            self.outcome.note("answered", len(chosen), wrong, classified=True)

    def _live(self, pool: SequencePool, index: int) -> None:
        """One sequence in pieces."""
        [sequence] = pool.sequences(np.array([index]))
        between = (self.draw.randint(0, len(sequence)) for _ in range(2))
        cuts = sorted({0, len(sequence), *between})
        live = self.client.live(model=pool.model)
        try:
            for first, stop in pairwise(cuts):
                answer = live.advance(sequence[first:stop])
        except Overloaded:
            self.outcome.note("refused")
        except ModelNotFound:  # its version has been taken away meanwhile
            self.outcome.note("outdated")
        else:
            wrong = pool.wrong(np.array([index]), answer.logits[None])
            self.outcome.note("answered", 1, wrong)

    def _leave(self, pool: SequencePool, chosen: NDArray[np.int64]) -> None:
        """Calls, and leaves at some moment; whoever has an answer by then has the right one."""
        classify = self.channel.unary_unary(*pool.method)
        call = classify.future(pool.request(chosen), timeout=_PATIENCE_S)
        time.sleep(self.draw.choice((0.0, 0.0005, 0.005)))
        call.cancel()  # type: ignore[no-untyped-call]
        if call.code() is grpc.StatusCode.OK:
            wrong = pool.wrong_response(chosen, call.result())
            self.outcome.note("answered", len(chosen), wrong, classified=True)
        elif call.code() is grpc.StatusCode.CANCELLED:
            self.outcome.note("left")
        elif call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.outcome.note("refused")
        else:
            self.outcome.note("failed", wrong=f"{call.code().name}: {call.details()}")


def _republish(repository: Path, client: Client, over: threading.Event) -> None:
    """Publishes every model again and again; what is no longer served is removed."""
    while not over.wait(_REPUBLISH_S):
        for name, network in MODELS.items():
            publish_random(repository, name, network, _LONGEST_STEPS)
        served = {
            status.name: status.version
            for status in client.models()
            if status.state is ModelState.READY
        }
        for name in MODELS:
            for version in artifact.versions(repository, name):
                if version < served[name]:
                    shutil.rmtree(artifact.version_path(repository, name, version))


def _report(server: Server, outcome: Outcome, count: int, over: threading.Event) -> None:
    """A line of progress now and then."""
    began = time.monotonic()
    while not over.wait(_REPORT_S):
        rate = outcome.sequences / (time.monotonic() - began)
        print(
            f"{outcome.sequences:,} of {count:,} sequences, {rate:,.0f}/s; "
            f"{server.resident_mib():.0f} MiB, {server.descriptors()} descriptors; "
            + ", ".join(f"{number:,} {end}" for end, number in outcome.ends.most_common()),
            flush=True,
        )


if __name__ == "__main__":
    main()

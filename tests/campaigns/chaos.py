"""Random faults under load, for as long as one likes: replicas killed, stopped, frozen, cut off.

Callers go round two replicas through one client, by relays that can cut connections. One replica
at a time is in trouble, and the next only when the client is connected to both again. So every call
is to be answered, with the right bits; were it not, then with an error that the client documents.
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.models import publish_random
from benchmarks.server_process import TRANSPORTS, Server
from benchmarks.workloads import FEATURES
from seqserve import artifact
from seqserve_client import Client, DeadlineExceeded, Overloaded, SeqserveError, Unavailable
from seqserve_export.network import NetworkConfig
from tests.campaigns import harness
from tests.campaigns.harness import Claims
from tests.campaigns.pool import SequencePool
from tests.campaigns.relay import Relay

MODEL = "lstm"
NETWORK = NetworkConfig(features=FEATURES, classes=9, hidden_size=16)
MINUTES, QUICK_MINUTES = 10.0, 0.25
CALLERS = 6
DOCUMENTED = (Unavailable, DeadlineExceeded, Overloaded)
"""What a caller may be told of a fault, once the client's own retries are over."""
_TIMEOUT_S = 20.0
_FROZEN_S = 1.0
_LONGEST_STEPS = 200
_POOL = 200
_BETWEEN_CALLS, _RECOVERED_CALLS = 50, 200
_POLL_S = 0.5


class Replicas:
    """Two servers of one repository, each behind a relay of its own.

    Args:
        repository: The model repository.
        transport: `native` or `grpcio`.
        stack: Ends them.
    """

    def __init__(self, repository: Path, transport: str, stack: ExitStack) -> None:
        self._repository = repository
        self._transport = transport
        self._stack = stack
        self.ever: list[Server] = []
        """All that there have been."""
        self.servers = [self._start() for _ in range(2)]
        self.relays = [stack.enter_context(Relay(server.address)) for server in self.servers]

    def restart(self, index: int) -> None:
        """Starts the one that has ended again, where it was."""
        self.servers[index] = self._start(self.servers[index].address)

    def _start(self, address: str = "127.0.0.1:0") -> Server:
        options = ("--poll", str(_POLL_S))
        server = Server(self._repository, self._transport, None, options, address)
        self.ever.append(server)
        return self._stack.enter_context(server)


def kill(replicas: Replicas, index: int, _: Path) -> None:
    """`kill -9`, and started again."""
    replicas.servers[index].kill()
    replicas.restart(index)


def drain(replicas: Replicas, index: int, _: Path) -> None:
    """SIGTERM, and started again."""
    assert replicas.servers[index].stop() == 0
    replicas.restart(index)


def freeze(replicas: Replicas, index: int, _: Path) -> None:
    """SIGSTOP, and a while later SIGCONT."""
    replicas.servers[index].signal(signal.SIGSTOP)
    time.sleep(_FROZEN_S)
    replicas.servers[index].signal(signal.SIGCONT)


def cut(replicas: Replicas, index: int, _: Path) -> None:
    """Every connection to it is reset."""
    replicas.relays[index].cut()


def corrupt(replicas: Replicas, _: int, repository: Path) -> None:
    """A version is published whose model is not the one that its manifest names."""
    good = max(artifact.versions(repository, MODEL))
    bad = artifact.version_path(repository, MODEL, good + 1)
    staged = repository / ".staged"
    shutil.copytree(artifact.version_path(repository, MODEL, good), staged)
    with (staged / artifact.MODEL_FILE).open("r+b") as model:
        model.seek(100)
        model.write(b"chaos")
    manifest = artifact.read_manifest(artifact.version_path(repository, MODEL, good))
    manifest.version = good + 1
    artifact.write_manifest(manifest, staged)
    staged.rename(bad)
    time.sleep(2 * _POLL_S)
    shutil.rmtree(bad)


FAULTS: tuple[Callable[[Replicas, int, Path], None], ...] = (kill, drain, freeze, cut, corrupt)


def main() -> None:
    """Runs, prints and writes results/chaos.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--minutes", type=float, help="how long, on each transport")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    options = parser.parse_args()
    minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    claims, figures = Claims(), {}
    for transport in [options.transport] if options.transport else TRANSPORTS:
        figures[transport] = chaos(transport, minutes, claims, seed=options.seed)
    harness.finish("chaos", f"{minutes:g} minutes of faults", claims, figures)


def chaos(transport: str, minutes: float, claims: Claims, *, seed: int = 0) -> dict[str, object]:
    """Lets faults loose on two replicas."""
    draw, faults = random.Random(seed), Counter[str]()
    with ExitStack() as stack:
        repository = Path(stack.enter_context(TemporaryDirectory()))
        publish_random(repository, MODEL, NETWORK, _LONGEST_STEPS)
        pool = SequencePool(repository, MODEL, _POOL, _LONGEST_STEPS)
        replicas = Replicas(repository, transport, stack)
        address = ",".join(relay.address for relay in replicas.relays)
        client = stack.enter_context(Client(address, timeout_s=_TIMEOUT_S))
        with _calling(client, pool) as calls:
            calls.wait(_RECOVERED_CALLS)
            end = time.monotonic() + 60 * minutes
            # Each once, and then as they come.
            order = [*draw.sample(FAULTS, len(FAULTS))]
            while order or time.monotonic() < end:
                fault = order.pop() if order else draw.choice(FAULTS)
                faults[fault.__name__] += 1
                fault(replicas, draw.randrange(2), repository)
                print(f"{fault.__name__}: {calls.ended()}", flush=True)
                for relay in replicas.relays:
                    relay.wait_until_connected()
                calls.wait(_BETWEEN_CALLS)
            before = calls.ends.copy()
            calls.wait(_RECOVERED_CALLS)
            after = calls.ends - before
        statuses = [server.stop() for server in replicas.servers]
    wrong, failed = calls.wrong[:3] or 0, calls.ends.total() - calls.ends["answered"]
    claims.hold(transport, "answers with other bits, or undocumented errors: 0", wrong, not wrong)
    claims.hold(transport, "calls that failed while one replica was well: 0", failed, not failed)
    well = after.keys() == {"answered"}
    claims.hold(transport, "all answered once the faults are over", after["answered"], well)
    refused = sum("refused" in line for server in replicas.ever for line in server.printed)
    claims.hold(transport, "corrupt versions refused, in the log", refused, refused > 0)
    claims.hold(transport, "the servers end as told", statuses, statuses == [0, 0])
    return {"faults": dict(faults), "calls": dict(calls.ends)}


class _Calls:
    """Callers without a pause."""

    def __init__(self, client: Client, pool: SequencePool) -> None:
        self._client = client
        self._pool = pool
        self._progress = threading.Condition()
        self.over = threading.Event()
        self.ends = Counter[str]()
        self.wrong: list[str] = []

    def ended(self) -> str:
        """How many ended how."""
        return ", ".join(f"{count:,} {end}" for end, count in self.ends.most_common())

    def wait(self, count: int) -> None:
        """Until so many more have ended."""
        with self._progress:
            goal = self.ends.total() + count
            self._progress.wait_for(lambda: self.ends.total() >= goal)

    def run(self, caller: int) -> None:
        """One caller's calls."""
        draw = random.Random(caller)
        while not self.over.is_set():
            chosen = np.array([draw.randrange(_POOL) for _ in range(draw.choice((1, 1, 4, 50)))])
            end, wrong = self._call(chosen)
            with self._progress:
                self.ends[end] += 1
                self.wrong += [wrong] if wrong else []
                self._progress.notify_all()

    def _call(self, chosen: np.ndarray) -> tuple[str, str]:
        try:
            answer = self._client.classify(self._pool.sequences(chosen), model=MODEL)
        except DOCUMENTED as error:
            return type(error).__name__, ""
        except SeqserveError as error:
            return type(error).__name__, str(error)
        return "answered", self._pool.wrong(chosen, answer.logits)


@contextmanager
def _calling(client: Client, pool: SequencePool) -> Iterator[_Calls]:
    calls = _Calls(client, pool)
    with ThreadPoolExecutor(CALLERS) as threads:
        running = [threads.submit(calls.run, caller) for caller in range(CALLERS)]
        try:
            yield calls
        finally:
            calls.over.set()
    for each in running:
        each.result()


if __name__ == "__main__":
    main()

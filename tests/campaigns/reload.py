"""A new version under load: whether any call fails, and what those pay that come meanwhile.

Calls of one sequence arrive at random moments, at half of what the server can do. In every second
window a version is published (or, where operators are tested, ReloadRepository is called after it
was): calls that come from then until the new version has answered for a while are held against
calls at the same moments of the window before, which saw none. The versions have the same weights,
so that every answer can be held against a batch of one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.calls import CLASSIFY, Calls
from benchmarks.harness import Spread
from benchmarks.load import Answered, Load
from benchmarks.models import publish_random
from benchmarks.server_process import CLIENT_CORE, SERVER_CORE, TRANSPORTS, Server
from benchmarks.workloads import FEATURES, LONG_TAILED, LONGEST_STEPS
from seqserve import artifact
from seqserve.v1.classifier_pb2 import ClassifyResponse
from seqserve.v1.repository_pb2 import ReloadRepositoryRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_export.network import NetworkConfig
from seqserve_server.security import access
from tests.campaigns import harness
from tests.campaigns.harness import Claims

NETWORKS = {
    "lstm-64": NetworkConfig(features=FEATURES, classes=9, hidden_size=64),
    "lstm-256x2": NetworkConfig(features=FEATURES, classes=9, hidden_size=256, num_layers=2),
    "lstm-1024-256": NetworkConfig(features=FEATURES, classes=9, hidden_size=1024, proj_size=256),
}
CORES = {"one core": SERVER_CORE, "any core": None}
LOAD_SHARE = 0.5
MOST_RATIO = 1.5
BEFORE_S, AFTER_S = 0.3, 0.3
POLL_S = 0.05
MOST_SECONDS = 64.0
"""Of a window: longer than the server waits for a core that is never free."""
_KEPT_VERSIONS = 2


@dataclass
class Windows:
    """Calls beside a reload, and calls at the same moments without one."""

    beside_s: list[NDArray[np.float64]] = field(default_factory=list)
    quiet_s: list[NDArray[np.float64]] = field(default_factory=list)
    takeovers_s: list[float] = field(default_factory=list)
    """From the publication to the first call that the new version answered."""
    failed: int = 0

    def p99_ms(self, which: str) -> Spread:
        """The 99th percentile, window by window."""
        return Spread.of([float(np.percentile(each, 99)) * 1e3 for each in getattr(self, which)])

    @property
    def ratio(self) -> Spread:
        """p99 ÷ p99, pair by pair."""
        return Spread.of(
            [
                float(np.percentile(beside, 99) / np.percentile(quiet, 99))
                for beside, quiet in zip(self.beside_s, self.quiet_s, strict=True)
            ]
        )


class Shelf:
    """Versions that lie ready beside a repository.

    Args:
        repository: Has version 1 of the model.
        model: Its name.
        server: Serves it.
        token: With all rights, for a server that is told rather than left to see for itself.
    """

    def __init__(self, repository: Path, model: str, server: Server, token: str = "") -> None:
        self._folder = repository / model
        self._server = server
        self._token = token
        self.newest = 1

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self._server.address

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What calls to it carry."""
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()

    def prepare(self) -> Path:
        """Makes the next version, aside."""
        self.newest += 1
        aside = self._folder / f".{self.newest}"
        shutil.copytree(self._folder / "1", aside)
        manifest = artifact.read_manifest(self._folder / "1")
        manifest.version = self.newest
        artifact.write_manifest(manifest, aside)
        return aside

    def publish(self, aside: Path) -> None:
        """Puts it into place, and says so where that is how the server is told."""
        aside.rename(self._folder / str(self.newest))
        if self._token:
            with grpc.insecure_channel(self._server.address) as channel:
                request = ReloadRepositoryRequest()
                ModelRepositoryStub(channel).ReloadRepository(request, metadata=self.metadata)

    def clear(self) -> None:
        """Takes old versions away; the first, which all are copies of, stays."""
        old = self.newest - _KEPT_VERSIONS
        if old > 1:
            shutil.rmtree(self._folder / str(old))


def main() -> None:
    """Measures, prints and writes results/reload.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--model", choices=NETWORKS, help="one alone, instead of all")
    parser.add_argument("--cores", choices=CORES, help="one layout alone, instead of both")
    parser.add_argument("--repeats", type=int, default=0, help="pairs of windows")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    claims, figures = Claims(), {}
    repeats = options.repeats or (3 if options.quick else 10)
    for transport in [options.transport] if options.transport else TRANSPORTS:
        for cores in [options.cores] if options.cores else CORES:
            for model in [options.model] if options.model else NETWORKS:
                for called in (False, True) if model == next(iter(NETWORKS)) else (False,):
                    where = f"{model}, {transport}, {cores}, {'call' if called else 'poll'}"
                    with _server(model, transport, CORES[cores], called=called) as (shelf, calls):
                        windows = measure(shelf, calls, repeats)
                    _hold(claims, where, windows)
                    figures[where] = {
                        "ratio": windows.ratio,
                        "p99_ms_beside": windows.p99_ms("beside_s"),
                        "p99_ms_quiet": windows.p99_ms("quiet_s"),
                        "takeover_s": Spread.of(windows.takeovers_s),
                        "failed": windows.failed,
                    }
    harness.finish("reload", f"A new version at {LOAD_SHARE:.0%} load", claims, figures)


def measure(shelf: Shelf, calls: Calls, repeats: int) -> Windows:
    """Windows with a new version and without one, in turn."""
    load = Load(shelf.address, CLASSIFY, calls.messages, shelf.metadata)
    rate = LOAD_SHARE * calls.saturate(load, 64, calls.warm(load, 64, 1.0))
    seconds = 2.0
    windows = Windows()
    while len(windows.beside_s) < repeats:
        aside = shelf.prepare()
        beside, published_s = _beside(shelf, aside, calls, load, rate, seconds)
        taken_s = _taken_over_s(beside, shelf.newest)
        shelf.clear()
        if taken_s is None or taken_s + AFTER_S > seconds:  # longer than this window
            if seconds >= MOST_SECONDS:
                raise TimeoutError(f"no version took over within {seconds} s of load")
            seconds *= 2
            continue
        quiet = _arrive(calls, load, rate, seconds, seed=shelf.newest)
        first, last = published_s, taken_s + AFTER_S
        windows.beside_s.append(_between(beside, first, last))
        windows.quiet_s.append(_between(quiet, first, last))
        windows.takeovers_s.append(taken_s - published_s)
        windows.failed += beside.failed + quiet.failed
    return windows


def _beside(
    shelf: Shelf, aside: Path, calls: Calls, load: Load, rate: float, seconds: float
) -> tuple[Answered, float]:
    """Calls with a publication among them, and when that was."""
    published: list[float] = []
    begin = time.perf_counter()

    def publish() -> None:
        time.sleep(BEFORE_S)
        published.append(time.perf_counter() - begin)
        shelf.publish(aside)

    publisher = Thread(target=publish)
    publisher.start()
    answered = _arrive(calls, load, rate, seconds, seed=shelf.newest)
    publisher.join()
    return answered, published[0]


def _arrive(calls: Calls, load: Load, rate: float, seconds: float, seed: int) -> Answered:
    rng = np.random.default_rng(seed)
    count = int(rate * seconds)
    which = rng.integers(0, len(calls.messages), count)
    times_s = rng.exponential(1 / rate, count).cumsum()
    answered = load.open_loop(times_s, which, range(count))
    calls.check(_sample(answered), which)
    return answered


def _sample(answered: Answered) -> Answered:
    """A hundredth of the answers, to be checked bit for bit."""
    some = {call: answered.answers[call] for call in sorted(answered.answers)[::100]}
    return Answered(**{**vars(answered), "answers": some})


def _taken_over_s(answered: Answered, version: int) -> float | None:
    """When the first call came that the version answered."""
    due_s = answered.ended_s - answered.latencies_s
    for call, message in sorted(answered.answers.items()):
        if ClassifyResponse.FromString(message).model_version == version:
            return float(due_s[call])
    return None


def _between(answered: Answered, first_s: float, last_s: float) -> NDArray[np.float64]:
    due_s = answered.ended_s - answered.latencies_s
    return answered.latencies_s[(due_s >= first_s) & (due_s < last_s)]


@contextmanager
def _server(
    model: str, transport: str, core: int | None, *, called: bool
) -> Iterator[tuple[Shelf, Calls]]:
    with TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        publish_random(repository, model, NETWORKS[model], LONGEST_STEPS)
        calls = Calls(repository, model, LONG_TAILED.sequences(2_048), size=1)
        options, token = ["--poll", str(POLL_S)], ""
        if called:
            token, granted = access.new_token(), Path(folder) / "access.toml"
            grant = access.Grant("operator", access.sha256(token), frozenset(access.Right))
            granted.write_text(access.entry(grant), encoding="utf-8")
            options = ["--access-file", str(granted)]
        with Server(repository, transport, core, options) as server:
            yield Shelf(repository, model, server, token), calls


def _hold(claims: Claims, where: str, windows: Windows) -> None:
    claims.hold(where, "calls failed: 0", windows.failed, not windows.failed)
    found = (
        f"{windows.ratio} ({windows.p99_ms('beside_s')} ÷ {windows.p99_ms('quiet_s')} ms; "
        f"takes over after {Spread.of(windows.takeovers_s)} s)"
    )
    claims.hold(where, f"p99 ≤ {MOST_RATIO} × without", found, windows.ratio.median <= MOST_RATIO)


if __name__ == "__main__":
    main()

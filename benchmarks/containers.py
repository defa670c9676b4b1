"""Containers: how large images are, how soon they serve, what memory they take, what two bring.

Needs a container engine with Compose. Images are built from this tree; what is in the engine's
cache is taken from there, unless `--from-nothing` is said. The load runs on the same machine as
the containers: it takes its part of their cores.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from socket import create_server
from typing import Any

from benchmarks import engine, harness
from benchmarks.calls import CLASSIFY, Calls
from benchmarks.harness import Spread
from benchmarks.load import Load
from benchmarks.models import SMALL, published
from benchmarks.workloads import LONG_TAILED
from seqserve_client import Client
from seqserve_data import read
from tests.containers.compose import Docker, Project

TAG = "benchmark"
SERVICES = {"server": "server", "export": "export", "jobs": "score"}
"""That have images, by room."""
NAME = os.environ.get("COMPOSE_PROJECT_NAME", f"seqserve-benchmark-{os.getpid()}")
CONFINED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--env=SEQSERVE_INSECURE=true")
"""As docker-compose.yml has it."""
SIZE, IN_FLIGHT = 32, 16
LARGEST = 8
"""Distributions that are told of by name."""


def main() -> None:
    """Measures, prints and writes results/containers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repeats")
    parser.add_argument("--from-nothing", action="store_true", help="build without the cache")
    given = parser.parse_args()
    repeats, seconds = (2, 1.0) if given.quick else (7, 5.0)
    docker = Docker({"SEQSERVE_TAG": TAG})
    build_s = _build(docker, from_nothing=given.from_nothing)
    bench = _Bench(docker, repeats, seconds)
    sizes = bench.sizes()
    up = bench.compose(2 if given.quick else 3)
    with published(SMALL) as repository, bench.volume(repository) as volume:
        start = bench.cold_start(volume)
        memory = bench.memory(repository, volume)
        replicas = bench.replicas(repository, volume)
    figures = {
        "build": {"seconds": build_s, "from nothing": given.from_nothing},
        "sizes": sizes,
        "compose up": up,
        "cold start": start,
        "memory": memory,
        "replicas": replicas,
    }
    for table in tables(figures).values():
        harness.show(*table)
    harness.write("containers", figures)


def _build(docker: Docker, *, from_nothing: bool) -> float:
    begin = time.perf_counter()
    words = ("--no-cache",) if from_nothing else ()
    Project(docker, NAME)("--profile", "jobs", "build", "--quiet", *words, *SERVICES.values())
    return time.perf_counter() - begin


@dataclass(frozen=True)
class _Bench:
    """How often and how long to measure, by which engine."""

    docker: Docker
    repeats: int
    seconds: float

    def sizes(self) -> list[dict[str, Any]]:
        """Of each image over its base, and what is in it."""
        base = os.environ.get("SEQSERVE_BASE_IMAGE", "python:3.11-slim-bookworm")
        rows = []
        for room in SERVICES:
            image = f"seqserve-{room}:{TAG}"
            size = engine.image_mb(self.docker, image)
            rows.append(
                {
                    "image": room,
                    "mb": size,
                    "over_base_mb": size - engine.image_mb(self.docker, base),
                    "packages_mb": engine.packages_mb(self.docker, image),
                }
            )
        return rows

    def compose(self, repeats: int) -> dict[str, Spread]:
        """`docker compose up` to the first answer: with nothing trained yet, and again."""
        taken: dict[str, list[float]] = {}
        sequences = read("japanese-vowels/test").sequences
        for repeat in range(repeats):
            port, metrics_port = _free_ports()
            docker = Docker(
                {
                    **self.docker.environment,
                    "SEQSERVE_PORT": port,
                    "SEQSERVE_METRICS_PORT": metrics_port,
                }
            )
            project = Project(docker, f"{NAME}-{repeat}")
            try:
                for which in ("first", "again"):
                    begin = time.perf_counter()
                    project("up", "--detach", "--wait", "server")
                    taken.setdefault(f"{which}: healthy", []).append(time.perf_counter() - begin)
                    with Client(f"127.0.0.1:{port}") as client:
                        client.classify(sequences, model="japanese-vowels")
                    taken.setdefault(f"{which}: answer", []).append(time.perf_counter() - begin)
                    if which == "first":
                        trained_s = _ran_s(project.inspect("export"))
                        taken.setdefault("first: training", []).append(trained_s)
                    project("down")
            finally:
                project("down", "--volumes", "--timeout", "0")
        return {name: Spread.of(each) for name, each in taken.items()}

    @contextmanager
    def volume(self, repository: Path) -> Iterator[str]:
        """A volume that holds a repository's models."""
        volume = self.docker("volume", "create", f"{NAME}-models")
        try:
            image = f"seqserve-server:{TAG}"
            filler = self.docker("create", "--volume", f"{volume}:/models", image)
            repository.chmod(0o755)
            self.docker("cp", f"{repository}/.", f"{filler}:/models")
            self.docker("rm", filler)
            yield volume
        finally:
            self.docker("volume", "rm", "--force", volume)

    def cold_start(self, volume: str) -> dict[str, Spread]:
        """`docker run` to SERVING, the server's part of it, and a program that does nothing.

        The server's part begins when the engine says that the container has started. The whole of
        a program that does nothing has its end in it too, which SERVING has not.
        """
        image = f"seqserve-server:{TAG}"
        ready: list[float] = []

        def serve() -> float:
            begin = time.perf_counter()
            with self._server(volume) as started:
                engine.wait_until_serving(engine.address(self.docker, started))
                taken = time.perf_counter() - begin
                ready.append(_ready_s(self.docker, started))
                return taken

        def nothing() -> float:
            begin = time.perf_counter()
            self.docker("run", "--rm", *CONFINED, "--entrypoint=true", image)
            return time.perf_counter() - begin

        serve()  # the image's files are in the page cache from then on
        ready.clear()
        taken = harness.in_turn({"serving": serve, "nothing": nothing}, self.repeats)
        parts = {
            "serving": taken["serving"],
            "of that from the container's start to the line `ready`": ready,
            "nothing": taken["nothing"],
        }
        return {name: Spread.of(each) for name, each in parts.items()}

    def memory(self, repository: Path, volume: str) -> dict[str, Spread]:
        """Of a server at rest, and the most that was seen of it under load."""
        rest, loaded = [], []
        calls = _calls(repository)
        for _ in range(max(2, self.repeats // 2)):
            with self._server(volume) as started:
                where = engine.address(self.docker, started)
                engine.wait_until_serving(where)
                rest.append(engine.memory_mib(self.docker, started))
                load = Load(where, CLASSIFY, calls.messages)
                enough = calls.warm(load, IN_FLIGHT, 2 * self.seconds)
                with ThreadPoolExecutor(1) as thread:
                    running = thread.submit(calls.saturate, load, IN_FLIGHT, enough)
                    seen = [engine.memory_mib(self.docker, started)]
                    while not running.done():
                        seen.append(engine.memory_mib(self.docker, started))
                    running.result()
                loaded.append(max(seen))
        return {"at rest": Spread.of(rest), "under load": Spread.of(loaded)}

    def replicas(self, repository: Path, volume: str) -> dict[str, Any]:
        """Sequences a second of one and of two replicas, each with a core's time and a lane."""
        with ExitStack() as stack:
            started = [
                stack.enter_context(self._server(volume, "--cpus=1", "--env=SEQSERVE_LANES=1"))
                for _ in range(2)
            ]
            places = [engine.address(self.docker, each) for each in started]
            for place in places:
                engine.wait_until_serving(place)
            calls = _calls(repository)
            loads = [Load(place, CLASSIFY, calls.messages) for place in places]
            enough = [calls.warm(load, IN_FLIGHT, self.seconds) for load in loads]
            used: list[float] = []

            def rate(count: int) -> float:
                before = sum(engine.cpu_seconds(self.docker, each) for each in started[:count])
                with ThreadPoolExecutor(count) as threads:
                    rates = list(
                        threads.map(
                            lambda each: calls.saturate(each[0], IN_FLIGHT, each[1]),
                            list(zip(loads, enough, strict=True))[:count],
                        )
                    )
                after = sum(engine.cpu_seconds(self.docker, each) for each in started[:count])
                used.append((after - before) / (sum(enough[:count]) * SIZE) * 1e6)
                return sum(rates)

            taken = harness.in_turn({"one": lambda: rate(1), "two": lambda: rate(2)}, self.repeats)
        return {
            **{name: Spread.of(each) for name, each in taken.items()},
            "two ÷ one": harness.ratios(taken["two"], taken["one"]),
            "core-seconds a million sequences": Spread.of(used),
        }

    @contextmanager
    def _server(self, volume: str, *words: str) -> Iterator[str]:
        mount = f"--volume={volume}:/models:ro"
        with engine.container(
            self.docker, *CONFINED, mount, *words, f"seqserve-server:{TAG}"
        ) as started:
            yield started


def _calls(repository: Path) -> Calls:
    return Calls(repository, SMALL, LONG_TAILED.sequences(2_560), SIZE)


def _ran_s(inspected: dict[str, Any]) -> float:
    """How long a container that has ended ran."""
    state = inspected["State"]
    began, ended = (_moment(state[name]) for name in ("StartedAt", "FinishedAt"))
    return (ended - began).total_seconds()


def _ready_s(docker: Docker, started: str) -> float:
    """From a server's start to its line that says so, both by the engine's clock."""
    following = docker.start("logs", "--follow", "--timestamps", started)
    with following:
        assert following.stdout
        line = next(each for each in following.stdout if "ready in" in each)
        following.kill()
    began = _moment(docker.inspect(started)["State"]["StartedAt"])
    return (_moment(line.split()[0]) - began).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00")


def _free_ports() -> tuple[str, str]:
    with create_server(("127.0.0.1", 0)) as one, create_server(("127.0.0.1", 0)) as other:
        return str(one.getsockname()[1]), str(other.getsockname()[1])


Tables = dict[str, tuple[str, Sequence[str], Sequence[Sequence[object]]]]


def tables(figures: dict[str, Any]) -> Tables:
    """By name: a title, what heads the columns, and the rows."""
    sizes = [
        (
            row["image"],
            f"{row['mb']:.0f}",
            f"{row['over_base_mb']:.0f}",
            ", ".join(f"{name} {mb:.0f}" for name, mb in [*row["packages_mb"].items()][:LARGEST]),
        )
        for row in figures["sizes"]
    ]
    nothing = ", from nothing" if figures["build"]["from nothing"] else ", what had changed"
    seconds = [
        (f"build of all images{nothing}", f"{figures['build']['seconds']:.0f}"),
        *((f"docker compose up, {name}", each) for name, each in figures["compose up"].items()),
        *((f"docker run, {name}", each) for name, each in figures["cold start"].items()),
    ]
    server = [
        *((f"memory {name}, MiB", each) for name, each in figures["memory"].items()),
        *((f"replicas: {name}", each) for name, each in figures["replicas"].items()),
    ]
    about = f"A server of {SMALL}, {LONG_TAILED.name}, {SIZE} sequences a request"
    return {
        "sizes": ("Images, MB", ("image", "all", "over its base", "of it"), sizes),
        "seconds": ("Seconds", ("what", "seconds"), seconds),
        "server": (about, ("what", "figure"), server),
    }


if __name__ == "__main__":
    main()

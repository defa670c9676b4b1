"""The command lines of the engine and of Compose, and what tests ask of them again and again."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE_FILE = "docker-compose.yml"


@dataclass(frozen=True)
class Docker:
    """The engine's command line: `docker("inspect", name)`."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside this process's own."""

    def run(self, *words: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """What became of a command; `text` is its standard input."""
        return subprocess.run(
            ["docker", *words],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            input=text or "",
            capture_output=True,
            text=True,
            check=False,
        )

    def __call__(self, *words: str | Path, text: str | None = None) -> str:
        """The output of a command that succeeds."""
        done = self.run(*words, text=text)
        assert done.returncode == 0, f"docker {' '.join(map(str, words))}:\n{done.stderr}"
        return done.stdout.strip()

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """A command that goes on; its caller ends it."""
        return subprocess.Popen(
            ["docker", *words],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def inspect(self, name: str) -> dict[str, Any]:
        """All that the engine knows of a container, image, network or volume."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found


@dataclass(frozen=True)
class Project:
    """A Compose project: its containers, volumes, networks and ports are nobody else's.

    `project("logs", "server")` is `docker compose logs server`.
    """

    docker: Docker
    name: str
    files: tuple[str | Path, ...] = (BASE_FILE,)
    env_file: str | Path = os.devnull
    """Not a developer's own .env, which is not what is tested."""

    def __call__(self, *words: str | Path, text: str | None = None) -> str:
        """The output of a command that succeeds."""
        return self.docker(*self.words, *words, text=text)

    def run(self, *words: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """What became of a command."""
        return self.docker.run(*self.words, *words, text=text)

    @property
    def words(self) -> tuple[str | Path, ...]:
        """What `docker` is told before a command of Compose."""
        files = [word for file in self.files for word in ("--file", file)]
        return ("compose", "--env-file", self.env_file, "--project-name", self.name, *files)

    def told(self, *overrides: str | Path, **environment: str) -> Project:
        """The same project by more files and other variables."""
        docker = Docker({**self.docker.environment, **environment})
        return replace(self, docker=docker, files=(*self.files, *overrides))

    def up(self, service: str, *, alone: bool = False) -> None:
        """Starts a service, and what it needs or not; returns once it is healthy."""
        self("up", "--detach", *(["--no-deps"] if alone else []), "--wait", service)

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        """Its container frozen."""
        container = self.container(service)
        self.docker("pause", container)
        try:
            yield
        finally:
            self.docker("unpause", container)
            # Whatever was paused is unhealthy to the engine until it has been asked again.
            while self.inspect(service)["State"]["Health"]["Status"] != "healthy":
                pass

    def container(self, service: str) -> str:
        """The id of a service's one container, whether it runs or not."""
        [found] = self("ps", "--all", "--quiet", service).split()
        return found

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of that container."""
        return self.docker.inspect(self.container(service))

    def logs(self, service: str) -> str:
        """All that its container has printed."""
        done = self.docker.run("logs", self.container(service))
        return done.stdout + done.stderr

    def wait_for_log(self, service: str, text: str) -> None:
        """Until its container has printed that, or has ended without."""
        logs = ("logs", "--follow", self.container(service))
        following = self.docker.start(*logs)
        with following:
            assert following.stdout
            found = any(text in line for line in following.stdout)
            following.kill()
        assert found, f"{service} ended without {text!r}"

    def crash(self, service: str) -> None:
        """Kills its process as the kernel would: `docker kill` counts as stopping it."""
        process = self.inspect(service)["State"]["Pid"]
        image = self.inspect(service)["Image"]
        kill = f"import os, signal; os.kill({process}, signal.SIGKILL)"
        self.docker(
            *("run", "--rm", "--pid", "host", "--user", "0"),
            *("--entrypoint", "python", image, "-c", kill),
        )

    @property
    def address(self) -> str:
        """Where the host reaches the server."""
        return f"127.0.0.1:{self.docker.environment['SEQSERVE_PORT']}"

    @property
    def metrics_address(self) -> str:
        """Where it reads the server's metrics."""
        return f"127.0.0.1:{self.docker.environment['SEQSERVE_METRICS_PORT']}"

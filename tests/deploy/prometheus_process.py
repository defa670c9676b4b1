"""Prometheus as a process, by the files in deploy/observe as they are but for times and targets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OBSERVE = ROOT / "deploy/observe"
TIMEOUT_S = 120.0

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed",
)

_OFTEN = "500ms"
_SOON = "1s"


@dataclass(frozen=True)
class RunningPrometheus:
    """What it knows, and what it makes of that."""

    address: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """What it gives, as soon as it gives anything."""
        end = time.monotonic() + TIMEOUT_S
        while not (found := self.query(expression)):
            assert time.monotonic() < end, f"{expression} gives nothing: {self.query('up')}"
        return found

    def wait_for_alert(self, alert: str, **labels: str) -> dict[str, Any]:
        """The alert of this name that has these labels, among others, as soon as it fires."""
        labels["alertname"] = alert
        end = time.monotonic() + TIMEOUT_S
        while True:
            alerts: list[dict[str, Any]] = self.ask("alerts")["alerts"]
            for each in alerts:
                if each["state"] == "firing" and each["labels"].items() >= labels.items():
                    return each
            assert time.monotonic() < end, f"{labels} does not fire: {alerts}"

    def ask(self, path: str, **parameters: str) -> Any:  # noqa: ANN401
        """What its API answers."""
        url = f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}"
        try:
            with urlopen(url, timeout=TIMEOUT_S) as response:
                return json.load(response)["data"]
        except HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error


@contextmanager
def running(folder: Path, targets: Sequence[str]) -> Iterator[RunningPrometheus]:
    """Prometheus by the product's own rules, of these servers, in a hurry."""
    configuration = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": _OFTEN, "evaluation_interval": _OFTEN}
    servers, _ = configuration["scrape_configs"]
    assert servers.pop("dns_sd_configs")[0]["port"] == 8002
    servers["static_configs"] = [{"targets": list(targets)}]
    configuration["scrape_configs"] = [servers]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "rules").mkdir()
    for path in (OBSERVE / "rules").glob("*.yml"):
        groups = yaml.safe_load(path.read_text())
        for group in groups["groups"]:
            group.pop("interval", None)
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = _SOON
        (folder / "rules" / path.name).write_text(yaml.safe_dump(groups))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with (folder / "log").open("w") as log, (folder / "log").open() as said:
        process = subprocess.Popen(command, stderr=log)
        try:
            yield RunningPrometheus(_address(process, said))
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def _address(process: subprocess.Popen[bytes], said: Any) -> str:  # noqa: ANN401
    """Where it listens, once it has read its rules."""
    text, end = "", time.monotonic() + TIMEOUT_S
    while "Server is ready to receive web requests" not in text:
        assert process.poll() is None, text
        assert time.monotonic() < end, text
        text += said.read()
    [port] = re.findall(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', text)
    return f"127.0.0.1:{port}"

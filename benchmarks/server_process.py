"""A real server in a process of its own, pinned to a core where figures are taken."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self

TRANSPORTS = ("native", "grpcio")
SERVER_CORE, CLIENT_CORE = 0, 1

_LISTENING = re.compile(r"listening on (\S+)")
_READY = " ready in "


class ServerProcess:
    """A server on a free port; returns from construction when it is ready.

    Args:
        command: Prints what `seqserve serve` prints.
        core: The processor it may use; None for any.
    """

    def __init__(self, command: Sequence[str], core: int | None = SERVER_CORE) -> None:
        self.printed: list[str] = []
        """The lines that it has printed so far."""
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",  # a transport may log what strangers sent
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
        self.address = self._await_address()
        # Read on, or the server would stand still once the pipe is full.
        self._reader = threading.Thread(target=self._read_on, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """The server, which is ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops it."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)  # or it could not hear what follows
            self.stop()

    def cpu_seconds(self) -> float:
        """Processor time the server has used so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Memory it holds now, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def peak_mib(self) -> float:
        """The most memory it has ever held, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024

    def descriptors(self) -> int:
        """File descriptors it has open now."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, and does not wait for what comes of it."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Waits for its end; the exit status, negative where it was a signal."""
        status = self._process.wait()
        self._reader.join()
        return status

    def stop(self) -> int:
        """Drains the server and waits for it; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends the server as a crash does."""
        self.signal(signal.SIGKILL)
        self.wait()

    def _await_address(self) -> str:
        assert self._process.stdout
        address = ""
        for line in self._process.stdout:
            self.printed.append(line)
            if found := _LISTENING.search(line):
                address = found[1]
            if _READY in line:
                return address
        raise RuntimeError("the server did not start:\n" + "".join(self.printed))

    def _read_on(self) -> None:
        assert self._process.stdout
        self.printed.extend(self._process.stdout)


class Server(ServerProcess):
    """`seqserve serve` with one lane.

    Args:
        repository: The model repository.
        transport: `native` or `grpcio`.
        core: The processor it may use; None for any.
        options: Others of `seqserve serve`.
        address: HOST:PORT to listen on; port 0 takes a free one.
    """

    def __init__(
        self,
        repository: Path,
        transport: str = "native",
        core: int | None = SERVER_CORE,
        options: Sequence[str] = (),
        address: str = "127.0.0.1:0",
    ) -> None:
        seqserve = Path(sys.executable).with_name("seqserve")
        named = {
            "--address": address,
            "--transport": transport,
            "--lanes": "1",
            "--metrics-address": "127.0.0.1:0",  # as users have it: counted
        }
        command = [str(seqserve), "serve", str(repository), *chain.from_iterable(named.items())]
        super().__init__([*command, *options], core)


def policy_server(repository: Path, policy: str) -> ServerProcess:
    """The server with the scheduler of this name: see `benchmarks.policy_server`."""
    module = "benchmarks.policy_server"
    return ServerProcess([sys.executable, "-m", module, str(repository), "--policy", policy])


def echo_server(transport: str) -> ServerProcess:
    """A server that computes nothing: see `benchmarks.echo_server`."""
    return ServerProcess([sys.executable, "-m", "benchmarks.echo_server", "--transport", transport])


def server_with_stats(repository: Path) -> ServerProcess:
    """`seqserve serve` that logs what its lanes do every second."""
    return Server(repository, options=("--stats", "1"))

"""A real server in a process of its own, pinned to a core."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

TRANSPORTS = ("native", "grpcio")

_LISTENING = re.compile(r"listening on (\S+)")
_READY = " ready in "


class Server:
    """`seqserve serve` on a free port; returns from construction when it is ready.

    Args:
        repository: The model repository.
        transport: `native` or `grpcio`.
        core: The processor it may use.
    """

    def __init__(self, repository: Path, transport: str, core: int) -> None:
        seqserve = Path(sys.executable).with_name("seqserve")
        options = {"--address": "127.0.0.1:0", "--transport": transport, "--lanes": "1"}
        command = [str(seqserve), "serve", str(repository), *chain.from_iterable(options.items())]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.address = self._await_address()

    def cpu_seconds(self) -> float:
        """Processor time the server has used so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Memory it holds now, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024

    def stop(self) -> None:
        """Ends the server and waits for it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()

    def _await_address(self) -> str:
        assert self._process.stdout
        printed, address = [], ""
        for line in self._process.stdout:
            printed.append(line)
            if found := _LISTENING.search(line):
                address = found[1]
            if _READY in line:
                return address
        raise RuntimeError("the server did not start:\n" + "".join(printed))

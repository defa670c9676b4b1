"""Tries versions in a process of its own, so that whatever a graph does is done there.

A graph with the right sha256 may still end the process that opens it, never come to an end, or
take all memory; and proving and warming up take the interpreter from the lanes. Here all of this
happens to a process that serves nobody, has limits, and runs last where others want its core. What
it proves is opened by the server afterwards.

    seqserve serve ── folder ──▶ python -m seqserve_server.models.proving
                   ◀─ Proven or why not ──
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqserve import errors
from seqserve.errors import InvalidArtifact
from seqserve.golden import Proof
from seqserve_server import cores, memory
from seqserve_server.errors import Draining
from seqserve_server.models.loading import NotTriedError, Proven, attempt
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling.cost import Spent

_log = logging.getLogger(__name__)

CPU_S = 600
"""Processor time that a version may take: one that needs more is taken for one that never ends.
On the clock it may be longer: on a busy core the process may wait for long."""
CLOCK_S = 3600.0
"""Time on the clock that a version may take in any case: one that waits for itself takes no
processor time, and no other is loaded meanwhile."""
PATIENCE_S = 20.0
"""How long a version may wait for cores that are never free, behind others. After that it is tried
by a process that has a small share in any case."""
MEMORY_SHARE = 0.5
"""Of this machine's or container's memory, what the process may take."""
LEAST_MEMORY_BYTES = 2 << 30
"""What it may take of address space in any case: a run asks for more than it writes to."""
_OF_THE_GRAPH = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGTRAP,
    signal.SIGXCPU,
}
"""Signals that a process gets for what it does, and not from others, nor where memory is short."""


@dataclass(frozen=True)
class Limits:
    """What the process may take."""

    cpu_s: int = CPU_S
    """For one version."""
    clock_s: float = CLOCK_S
    """For one version, once it need not wait for free cores."""
    memory_bytes: int = 0
    """Beyond what it has from the start; 0 for a share of what there is."""


class Prover:
    """The process and what it is told; it is started when it is needed. For one thread.

    Args:
        provider: What onnxruntime runs the models on.
        behind: Whether the process is to run behind others now.
        limits: What it may take.
    """

    def __init__(
        self,
        provider: ExecutionProvider,
        behind: Callable[[], bool] = lambda: False,
        limits: Limits = Limits(),
    ) -> None:
        self._provider = provider
        self._behind = behind
        self._limits = limits
        self._process: subprocess.Popen[str] | None = None
        self._hurries = False
        self._at_work = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Gives up what is being tried, of any thread: there will be nothing more."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        if self._at_work.acquire(blocking=False):  # else whoever reads from it sees its end
            self._end()
            self._at_work.release()

    def attempt(self, folder: Path) -> Proven:
        """As `loading.attempt`, in the process.

        Raises:
            InvalidArtifact: as there; or the process ended over it, and did so again.
            NotTriedError: the process could not be started, or was ended by others.
            Draining: it was closed.
        """
        with self._at_work:
            return self._attempt_twice(folder)

    def rest(self) -> None:
        """Ends the process, until it is needed again."""
        with self._at_work:
            self._hurries = False
            self._end()

    def _attempt_twice(self, folder: Path) -> Proven:
        try:
            return self._attempt(folder)
        except TimeoutError:
            _log.warning("%s: no core has been free for long; it is tried all the same", folder)
            self._end()
            self._hurries = True
        except _EndedOverItError as first:
            if first.for_its_time:  # it would take as much again
                raise InvalidArtifact(f"{folder}: {first}") from first
            _log.warning("%s: %s; trying once more", folder, first)
        try:
            return self._attempt(folder)
        except _EndedOverItError as again:
            kind = InvalidArtifact if again.of_the_graph else NotTriedError
            raise kind(f"{folder}: {again}") from again

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _attempt(self, folder: Path) -> Proven:
        try:
            process = self._process = self._process or _start(self._provider, self._limits)
        except OSError as error:
            raise NotTriedError(f"{folder}: no process to try it in: {error.strerror}") from error
        if self._closed:
            self._end()
            raise Draining
        assert process.stdin
        assert process.stdout
        try:
            behind = self._behind()
            order = {"folder": str(folder.absolute()), "behind": behind, "hurry": self._hurries}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            patient = behind and not self._hurries
            most_s = PATIENCE_S if patient else self._limits.clock_s
            if not select.select([process.stdout], [], [], most_s)[0]:
                if patient:
                    raise TimeoutError
                self._end()
                raise InvalidArtifact(f"{folder}: takes longer than a version may: {most_s:g} s")
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            self._process = None
            code = _end(process)
            raise Draining if self._closed else _EndedOverItError(code)
        return _proven(json.loads(line), folder)


def _end(process: subprocess.Popen[str]) -> int:
    """Ends it, if it has not ended; its exit status, or the signal below 0."""
    process.kill()
    with suppress(BrokenPipeError), process:  # what it was told last may not have left
        pass
    return process.wait()


class _EndedOverItError(Exception):
    """The process ended before it answered; says how.

    Args:
        code: Its exit status, or the signal below 0.
    """

    def __init__(self, code: int) -> None:
        self.for_its_time = -code == signal.SIGXCPU
        self.of_the_graph = code >= 0 or -code in _OF_THE_GRAPH
        if self.for_its_time:
            how = "took more processor time than a version may"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit status {code}"
        super().__init__(f"the process that tried it {how}")


def _start(provider: ExecutionProvider, limits: Limits) -> subprocess.Popen[str]:
    # -P: nothing is imported from the working directory. A group of its own: what a terminal
    # sends to the server is the server's business. Not a session, which would have a share of the
    # processor of its own where Linux groups by sessions.
    command = [sys.executable, "-P", "-m", __name__, provider.value, json.dumps(asdict(limits))]
    return subprocess.Popen(  # noqa: S603 - nothing of it is another's
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )


def _proven(answer: dict[str, Any], folder: Path) -> Proven:
    if "refused" in answer:
        kind, message = answer["refused"], answer["message"]
        if kind == MemoryError.__name__:
            raise InvalidArtifact(f"{folder}: takes more memory than a version may")
        refusal = getattr(errors, kind, None)
        raise refusal(message) if refusal else RuntimeError(f"{folder}: {kind}: {message}")
    return Proven(
        answer["digest"],
        Proof(**answer["proof"]),
        [Spent(**each) for each in answer["observed"]],
    )


def main() -> None:
    """Tries each folder that standard input names, and answers on standard output."""
    with suppress(OSError):  # where memory is short, this process is to go, not the server
        Path("/proc/self/oom_score_adj").write_text("1000")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the server, by its pipe
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # onnxruntime prints
    open_session = opener(ExecutionProvider(sys.argv[1]))
    limits = Limits(**json.loads(sys.argv[2]))
    _limit_memory(limits.memory_bytes)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    while True:
        order = json.loads(orders.get())
        if order["behind"]:
            cores.last_in_line(at_all=order["hurry"])
        _limit_processor(limits.cpu_s)
        try:
            answer = asdict(attempt(Path(order["folder"]), open_session))
        except Exception as error:  # whatever it is, the server is told
            answer = {"refused": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(orders: queue.SimpleQueue[str]) -> None:
    """Whatever is being tried: the server may be killed, and nobody else would end this process."""
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


def _limit_memory(most: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # elsewhere, there is none
        import resource

        used = _data_bytes()
        share = int(MEMORY_SHARE * memory.granted())
        most = used + (most or max(share, LEAST_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor(seconds: int) -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        until = int(used.ru_utime + used.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))


def _data_bytes() -> int:
    """What it has: see proc(5), statm."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()

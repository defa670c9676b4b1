"""The way to a Ray cluster, and nothing sent to anyone else."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seqserve_jobs.errors import EngineError

if TYPE_CHECKING:
    from ray.data import DataContext

USAGE_STATS = "RAY_USAGE_STATS_ENABLED"
"""Ray tells its makers what it is used for, unless this is 0."""

_TELEMETRY = {USAGE_STATS: "0", "ORT_DISABLE_TELEMETRY": "1"}
_QUIET = ("RAY_BACKEND_LOG_LEVEL", "fatal")
"""Its core writes to standard error what nobody can mend: that actors have arguments, for one."""
_ADDRESS = "RAY_ADDRESS"
"""Set by `ray job submit` for what it runs."""
_REACHABLE_S = 10.0
_LEVELS = {
    "execution.streaming_executor": logging.WARNING,  # not every beginning and end
    "execution.streaming_executor_state": logging.CRITICAL,  # not a traceback for each loss
    "progress": logging.ERROR,  # not that there is none
}
_TOKENS = "ray._private.authentication.authentication_token_setup"
_OF_THIS_JOB = "local"


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Joins a cluster while the context lasts; one that the process has joined already is kept.

    Args:
        address: `auto` for the cluster of this machine, or `host:port` of its head; by default what
            RAY_ADDRESS says, and where it says nothing a cluster of this machine alone, which ends
            with the context.

    Raises:
        EngineError: Ray is not installed, or there is no such cluster.
    """
    for name, value in _TELEMETRY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(*_QUIET)
    try:
        import ray
    except ImportError as error:
        raise EngineError("Ray is not installed here: pip install 'seqserve[ray]'") from error
    if ray.is_initialized():
        yield
        return
    logging.getLogger(_TOKENS).addFilter(_is_of_interest)
    address = address or os.environ.get(_ADDRESS) or _OF_THIS_JOB
    check_reachable(address)
    own = {"include_dashboard": False} if address == _OF_THIS_JOB else {}
    try:
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(f"the Ray cluster {address} cannot be joined: {reason}") from error
    try:
        yield
    finally:
        with _signals_kept():
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Ray itself tries for minutes, and then ends the process.

    Raises:
        EngineError: nobody listens there.
    """
    if "://" in address:
        raise EngineError(
            f"{address}: a job joins a cluster as one of its processes: name the head as "
            "HOST:PORT, or hand the whole command over with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host:
        return  # a word of Ray's
    try:
        socket.create_connection((host, int(port)), _REACHABLE_S).close()
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the Ray cluster {address} cannot be joined: {error}; is its head there?"
        ) from error


def environment() -> dict[str, str]:
    """What workers are to find in their environment: what this process has decided."""
    return {name: os.environ[name] for name in _TELEMETRY}


def room(cpus: int) -> int:
    """How many workers fit on the nodes that live, whatever else these do.

    Args:
        cpus: Of a worker, which is on one node.
    """
    import ray

    living = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return sum(int(found // cpus) for found in living)


def most_workers(cpus: int) -> int:
    """The same, to begin with.

    Raises:
        EngineError: none fits.
    """
    found = room(cpus)
    if not found:
        raise EngineError(
            f"no node of the Ray cluster has the {cpus} CPUs that a worker needs; start nodes, or "
            "say with --workers how many there will be"
        )
    return found


def configure(context: DataContext) -> None:
    """Settings of Ray Data for a job that counts on losses, and shows its progress itself."""
    context.max_errored_blocks = -1
    # A block for each shard, at once, where it would collect them up to 128 MiB.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for module, level in _LEVELS.items():
        logging.getLogger(f"ray.data._internal.{module}").setLevel(level)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Not that a cluster is closed to strangers; that it is open to them is."""
    return "is enabled" not in record.getMessage()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts handlers of its own in place; those of a command end a job in good order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""How many cores this process was granted, and how its threads share them.

Granted by affinity and cgroup quota, not by the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def granted(processes: int = 1) -> int:
    """Whole cores that this process may keep busy, at least 1.

    Args:
        processes: Among how many the cores are divided.
    """
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = len(affinity) if affinity else os.cpu_count() or 1
    return max(1, int(min(cores, quota())) // processes)


def give_way() -> None:
    """Lets other threads that wait for this core go first."""
    if hasattr(os, "sched_yield"):
        os.sched_yield()


def last_in_line(*, at_all: bool) -> None:
    """Lets this thread run behind others, for good.

    Args:
        at_all: Whether it is to have a small share of a core that is never free. Without, on Linux,
            it runs as sched(7) has it, SCHED_IDLE: every other thread interrupts it, a patient one
            among them, which would wait for a merely nice one.
    """
    with suppress(AttributeError, OSError):  # elsewhere, or forbidden: a thread like others
        if at_all:
            os.setpriority(os.PRIO_PROCESS, 0, 19)
        else:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


@contextmanager
def patient_threads() -> Iterator[None]:
    """Threads begun within interrupt no other when they wake: on Linux, sched(7), SCHED_BATCH.

    On a core of its own such a thread runs at once all the same. On one that it shares it waits
    until the other gives way or its slice is over, and then has more to do at a time.
    """
    changed = False
    with suppress(AttributeError, OSError):  # elsewhere, or forbidden: threads like others
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody knows better
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            changed = True
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def quota(cgroups: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> float:
    """The tightest CPU quota over this process, in cores; infinite where there is none.

    Args:
        cgroups: Where the cgroup file systems are mounted.
        own_cgroup: The file that says which cgroups this process is in, as cgroups(7) has it.
    """
    quotas = [float("inf")]
    for controllers, path in own_cgroups(own_cgroup):
        if not controllers:
            quotas += map(_quota_v2, with_parents(cgroups, path))
        elif "cpu" in controllers:
            for mount in (cgroups / ",".join(controllers), cgroups / "cpu"):
                quotas += map(_quota_v1, with_parents(mount, path))
    return min(quotas)


def own_cgroups(own_cgroup: Path = OWN_CGROUP) -> Iterator[tuple[list[str], str]]:
    """The cgroups of this process: what each controls, nothing of version 2, and its path."""
    with suppress(OSError):  # no Linux
        for line in own_cgroup.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            yield controllers.split(",") if controllers else [], path


def with_parents(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a cgroup and those above it: each may have a quota of its own."""
    folder = mount / path.lstrip("/")
    while folder != mount:
        yield folder
        folder = folder.parent
    yield mount


def _quota_v2(folder: Path) -> float:
    """From `cpu.max`: "quota period" in microseconds, or "max period"."""
    try:
        allowed, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if allowed == "max" else int(allowed) / int(period)


def _quota_v1(folder: Path) -> float:
    """From `cpu.cfs_quota_us`, -1 where there is none, and `cpu.cfs_period_us`."""
    try:
        allowed = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return float("inf")
    return allowed / period if allowed > 0 else float("inf")

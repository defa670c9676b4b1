from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seqserve_server import cores


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def own_cgroup(tmp_path: Path) -> Path:
    return tmp_path / "self-cgroup"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("150000 100000\n", 1.5), ("max 100000\n", math.inf), ("garbage", math.inf)],
    ids=["one and a half", "unlimited", "unreadable"],
)
def test_the_quota_of_a_version_2_cgroup_counts(
    tmp_path: Path, own_cgroup: Path, text: str, expected: float
) -> None:
    own_cgroup.write_text("0::/pod/container\n")
    _write(tmp_path / "pod/container/cpu.max", text)

    assert cores.quota(tmp_path, own_cgroup) == expected


def test_the_tightest_quota_above_a_cgroup_counts(tmp_path: Path, own_cgroup: Path) -> None:
    own_cgroup.write_text("0::/pod/container\n")
    _write(tmp_path / "pod/container/cpu.max", "400000 100000")
    _write(tmp_path / "pod/cpu.max", "300000 100000")
    _write(tmp_path / "cpu.max", "800000 100000")

    assert cores.quota(tmp_path, own_cgroup) == 3


def test_a_container_that_sees_its_own_cgroup_as_the_root_finds_its_quota(
    tmp_path: Path, own_cgroup: Path
) -> None:
    own_cgroup.write_text("0::/of/the/host\n")
    _write(tmp_path / "cpu.max", "200000 100000")

    assert cores.quota(tmp_path, own_cgroup) == 2


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", math.inf)])
def test_the_quota_of_a_version_1_cgroup_counts(
    tmp_path: Path, own_cgroup: Path, quota: str, expected: float
) -> None:
    own_cgroup.write_text("3:cpu,cpuacct:/pod\n2:memory:/pod\n")
    _write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_quota_us", quota)
    _write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_period_us", "100000")

    assert cores.quota(tmp_path, own_cgroup) == expected


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cores.quota(tmp_path, tmp_path / "none") == math.inf


def test_at_least_one_core_and_no_more_than_the_affinity_is_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "quota", lambda: 0.3)
    assert cores.granted() == 1
    monkeypatch.setattr(cores, "quota", lambda: math.inf)
    assert cores.granted() == len(os.sched_getaffinity(0))


def test_processes_divide_the_cores_and_have_one_each_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setattr(cores, "quota", lambda: 9.5)

    assert [cores.granted(processes) for processes in (1, 2, 4, 16)] == [9, 4, 2, 1]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduling policies")
def test_patient_threads_are_those_begun_within_and_no_others() -> None:
    def policy() -> int:
        with ThreadPoolExecutor(1) as other:
            return other.submit(os.sched_getscheduler, 0).result()

    before = os.sched_getscheduler(0)
    with cores.patient_threads():
        assert policy() == os.SCHED_BATCH

    assert os.sched_getscheduler(0) == before
    assert policy() == before


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux's scheduling policies")
def test_where_a_policy_cannot_be_chosen_threads_are_as_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with cores.patient_threads():
        pass

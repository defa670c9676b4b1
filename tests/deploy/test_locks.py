"""What images are built of, held against constraints.txt and pyproject.toml."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = {
    "server/requirements-onnxruntime.txt": ("server", "signing", "otel"),
    "server/requirements-onnxruntime-gpu.txt": ("server", "signing", "otel"),
    "export/requirements.txt": ("data", "export", "signing"),
    "jobs/requirements.txt": ("data", "jobs", "server"),
    "jobs/requirements-ray.txt": ("data", "jobs", "ray", "server"),
}
ELSEWHERE = {"seqserve", "torch"}
LOCKS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("requirements-*.txt", "*/requirements*.txt")
    for path in ROOT.glob(pattern)
)


def pins(path: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([\w.!+]+)", (ROOT / path).read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_it_holds_the_versions_that_everything_else_is_tested_with(lock: str) -> None:
    tested = pins("constraints.txt") | pins("constraints-build.txt")
    locked = pins(lock)
    assert locked
    assert {name: locked[name] for name in locked.keys() & tested} == {
        name: tested[name] for name in locked.keys() & tested
    }


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if "torch" not in lock])
def test_each_distribution_has_hashes(lock: str) -> None:
    blocks = re.split(r"^(?=[\w.-]+==)", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", EXTRAS)
def test_it_has_what_its_extras_ask_for(lock: str) -> None:
    locked = pins(lock)
    if "onnxruntime-gpu" in locked:
        locked["onnxruntime"] = locked["onnxruntime-gpu"]
    for text in requires("seqserve") or ():
        needed = Requirement(text)
        marker = needed.marker
        wanted = marker is None or any(marker.evaluate({"extra": one}) for one in EXTRAS[lock])
        if wanted and needed.name not in ELSEWHERE:
            assert needed.specifier.contains(locked[canonicalize_name(needed.name)]), text


def test_every_lock_is_sent_to_the_builder() -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{lock}" for lock in LOCKS} <= set(sent)

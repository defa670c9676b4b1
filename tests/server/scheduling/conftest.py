"""Runners of real models, warmed up as the server does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from seqserve import artifact
from seqserve_server.models.loading import load
from seqserve_server.models.runner import Runner
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider
from tests.server.scheduling.held_model import Held


@pytest.fixture(scope="session")
def real_runner(models: Path) -> Callable[[str], Runner]:
    """The runner of one of MODELS."""

    @cache
    def runner(name: str) -> Runner:
        folder = artifact.version_path(models, name, 1)
        return load(folder, opener(ExecutionProvider.CPU))[0].runner

    return runner


@pytest.fixture
def small_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row stores made from now on hold the steps of a few rows only, so that they fill up."""
    for name in ("_PLAY_BYTES", "_LONG_PLAY_BYTES"):
        monkeypatch.setattr(f"seqserve_server.models.runner.{name}", 4 * 2 * 300)
    monkeypatch.setattr("seqserve_server.scheduling.row_store._STORE_BYTES", 8 * 2 * 300)


@pytest.fixture
def held() -> Iterator[Held]:
    """Shut at first."""
    held = Held(shut=True)
    yield held
    held.open()  # or a failed test would leave its lane waiting

"""Versions that come and go while callers call: no call fails, and nothing is left behind."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve.v1.repository_pb2 import (
    LoadModelRequest,
    ReloadRepositoryRequest,
    UnloadModelRequest,
)
from tests.campaigns import artifacts, reload_memory
from tests.campaigns.harness import Claims

if TYPE_CHECKING:
    from tests.server.conftest import Running, RunServer

# New versions are tried behind all other work.
pytestmark = pytest.mark.alone

MakeSequences = Callable[..., list[NDArray[np.float32]]]

CALLERS = 4


class Callers:
    """Call all the time, and hold every answer against that of its version alone."""

    def __init__(self, server: Running, sequences: list[NDArray[np.float32]]) -> None:
        self._server = server
        self._sequences = sequences
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.answers: dict[int, set[bytes]] = {}

    def call(self) -> int:
        """Until told to stop; how often that was."""
        calls = 0
        while not self._over.is_set():
            answer = self._server.classify("gru", self._sequences)
            with self._lock:
                self.answers.setdefault(answer.model_version, set()).add(answer.answers.logits)
            calls += 1
        return calls

    def stop(self) -> None:
        self._over.set()


def test_no_call_fails_and_none_is_answered_by_half_a_version_while_operators_change_everything(
    run_server: RunServer, versions: Path, make_sequences: MakeSequences
) -> None:
    with (
        run_server(versions, operator=True, lanes=2) as server,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        callers = Callers(server, make_sequences(3, 17, 5))
        calls = [pool.submit(callers.call) for _ in range(CALLERS)]
        try:
            aside = Path(shutil.move(versions / "gru" / "3", versions.parent / "3"))
            server.operations.ReloadRepository(ReloadRepositoryRequest())
            aside.rename(versions / "gru" / "3")
            server.operations.ReloadRepository(ReloadRepositoryRequest())
            # A rollback by hand, and back.
            for old, new in ((2, 3), (3, 2)):
                load = LoadModelRequest(model_name="gru", model_version=old)
                server.operations.LoadModel(load)
                unload = UnloadModelRequest(model_name="gru", model_version=new)
                server.operations.UnloadModel(unload)
            served = server.classify("gru", make_sequences(3)).model_version
        finally:
            callers.stop()
        assert all(call.result() for call in calls)

    assert served == 3
    assert callers.answers.keys() == {2, 3}
    assert [len(each) for each in callers.answers.values()] == [1, 1]


@pytest.mark.slow
def test_nothing_is_left_of_versions_that_have_gone(transport: str) -> None:
    cycles = 3 * reload_memory.SETTLED
    with reload_memory.serving(str(transport)) as cycle:
        levels = [cycle() for _ in range(cycles)]
    claims = Claims()
    reload_memory.hold(claims, "here", levels)

    assert not claims.broken


def test_damaged_artifacts_are_refused_or_serve_the_same_bits_and_end_nothing() -> None:
    seen, grown_mib = artifacts.campaign(150)

    assert sum(seen.values()) >= 150
    assert seen["refused"] > 0
    assert grown_mib < artifacts.MOST_GROWTH_MIB

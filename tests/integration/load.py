"""Callers who call without a pause through one client, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seqserve_client import Client
from tests.integration.conftest import in_process

MODEL = "lstm-last"
CALLERS = 8
TIMEOUT_S = 60.0
PATIENT_S = 300.0
"""A test that waits so long has failed; none is meant to come near."""


@dataclass
class Load:
    """Callers who call without a pause, and what came of it."""

    stop: threading.Event = field(default_factory=threading.Event)
    answered: int = 0
    failures: list[BaseException] = field(default_factory=list)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_calls(self, count: int) -> None:
        """Until so many more have been answered."""
        with self.progress:
            goal = self.answered + count
            assert self.progress.wait_for(
                lambda: self.answered >= goal or self.failures, PATIENT_S
            ), "no call ends any more"
            assert not self.failures, self.failures[0]

    def call(self, call: Callable[[int], None], first: int) -> None:
        """Calls until told to stop."""
        turn = first
        while not self.stop.is_set():
            try:
                call(turn)
            except BaseException as error:
                with self.progress:
                    self.failures.append(error)
                    self.progress.notify_all()
                return
            turn += CALLERS
            with self.progress:
                self.answered += 1
                self.progress.notify_all()


@contextmanager
def loaded(address: str, models: Path) -> Iterator[Load]:
    """CALLERS threads of one client, whose answers are held against a batch of one."""
    rng = np.random.default_rng(5)
    sequences = [rng.standard_normal((length, 3), np.float32) for length in range(1, 60)]
    graph = in_process(models, MODEL)
    alone = [graph(each[None], np.array([len(each)], np.int32)).logits for each in sequences]
    load = Load()
    # Each call travels by itself: a request for several callers would hide who failed.
    with Client(address, timeout_s=TIMEOUT_S, coalesce_sequences=1) as client:

        def call(turn: int) -> None:
            index = turn % len(sequences)
            answer = client.classify([sequences[index]], model=MODEL)
            assert np.array_equal(answer.logits, alone[index]), "another replica, other bits"

        threads = [
            threading.Thread(target=load.call, args=(call, caller)) for caller in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.stop.set()
            for thread in threads:
                thread.join()
    assert not load.failures, load.failures[0]

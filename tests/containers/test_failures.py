"""A server frozen, killed, stopped and removed: what callers notice, and what comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import Client
from seqserve_client.errors import DeadlineExceeded
from seqserve_data import Dataset
from tests.containers.compose import Project

if TYPE_CHECKING:
    from tests.containers.conftest import Model

CALLERS = 4
LONG_CALL = (256, 1024)
"""Sequences and steps of a call that takes a while."""


@pytest.fixture
def client(project: Project) -> Iterator[Client]:
    with Client(project.address, coalesce_sequences=1) as client:
        yield client


def test_a_frozen_server_costs_a_caller_its_deadline_and_no_more(
    project: Project,
    client: Client,
    model: Model,
    sequences: Dataset,
    expected: NDArray[np.float32],
) -> None:
    with project.paused("server"), pytest.raises(DeadlineExceeded):
        client.classify(sequences.sequences, model=model.name, timeout_s=1.0)

    assert np.array_equal(client.classify(sequences.sequences, model=model.name).logits, expected)


def test_a_killed_server_is_back_by_itself_with_the_same_answers(
    project: Project,
    client: Client,
    model: Model,
    sequences: Dataset,
    expected: NDArray[np.float32],
) -> None:
    before = project.inspect("server")["RestartCount"]

    project.crash("server")
    _wait_until_it_serves(project.address)

    assert project.inspect("server")["RestartCount"] == before + 1
    assert np.array_equal(client.classify(sequences.sequences, model=model.name).logits, expected)


def test_a_server_killed_by_its_operator_is_back_when_that_one_says_so(
    project: Project,
    client: Client,
    model: Model,
    sequences: Dataset,
    expected: NDArray[np.float32],
) -> None:
    project.docker("kill", "--signal", "KILL", project.container("server"))
    assert project.inspect("server")["State"]["ExitCode"] == 128 + 9

    project.up("server")

    assert np.array_equal(client.classify(sequences.sequences, model=model.name).logits, expected)


def test_calls_under_way_are_answered_before_a_stopped_server_ends(
    project: Project, client: Client, model: Model
) -> None:
    count, steps = LONG_CALL
    rng = np.random.default_rng(3)
    batch = list(rng.standard_normal((count, steps, 12), np.float32))
    enough = threading.Event()

    def call_on() -> NDArray[np.float32]:
        while True:
            logits = client.classify(batch, model=model.name, timeout_s=600.0).logits
            if enough.is_set():
                return logits

    with ThreadPoolExecutor(CALLERS) as callers:
        calls = [callers.submit(call_on) for _ in range(CALLERS)]
        while _steps_under_way(project) <= (CALLERS - 1) * count * steps:
            assert not any(call.done() for call in calls)
        enough.set()  # all are being answered
        project.docker("stop", "--time", "600", project.container("server"))
        answers = [call.result() for call in calls]

    assert project.inspect("server")["State"]["ExitCode"] == 0
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_a_model_outlives_down_and_is_not_trained_again(
    project: Project, client: Client, model: Model, sequences: Dataset
) -> None:
    project("down")

    project.up("server")

    assert project.logs("export") == "/models/japanese-vowels/1 is published: nothing to train\n"
    with Client(project.address) as new:
        assert [status.version for status in new.models()] == [1]
        assert new.classify(sequences.sequences, model=model.name).model_digest == model.digest


def _wait_until_it_serves(address: str) -> None:
    seqserve = Path(sys.executable).parent / "seqserve"
    subprocess.run(
        [seqserve, "health", "--server", address, "--wait", "600"], check=True, env=os.environ
    )


def _steps_under_way(project: Project) -> float:
    with urllib.request.urlopen(f"http://{project.metrics_address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith("seqserve_queue_steps ")]
    return float(value)

"""A graph whose answers are exact, and show any step that is lost, repeated or out of order.

Of each row it keeps how many steps there were and a checksum in which every step counts for its
place. All numbers are whole and small, so float32 holds them exactly in any company.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqserve.graph import GraphRunner, Outputs, SessionRun
from seqserve.ragged import RaggedBatch
from seqserve.v1.manifest_pb2 import Graph, StateTensor
from seqserve_server.models.runner import Runner
from seqserve_server.scheduling.cost import Coefficients, CostModel
from seqserve_server.scheduling.work import ServiceClass, Work

FEATURES = 2
_MODULUS = 8191
_SEEN = 3.0  # not 0, so that a state never set shows
_CHECKSUM = 5.0

Array = NDArray[np.float32]
Lengths = NDArray[np.int64]

# One axis order each, as the real graphs have both.
_STATE = [
    StateTensor(name="seen", dims=[-1, 1], initial=_SEEN),
    StateTensor(name="checksum", dims=[1, -1, 1], initial=_CHECKSUM),
]

FORWARD = Graph(state=_STATE, minimum_rows=1)
TWINS = Graph(state=_STATE, minimum_rows=2)
WHOLE = Graph(minimum_rows=1)


def checksums(
    output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
) -> Sequence[Array]:
    """What a session would give: logits (checksum, steps), their negatives, and the state."""
    feed = input_feed
    values, lengths = feed["values"], feed["lengths"]
    rows, time = values.shape[:2]
    assert lengths.shape == (rows,)
    assert lengths.dtype == np.int32
    assert values.dtype == np.float32
    assert lengths.min() >= 1
    assert lengths.max() <= time, "a step that is not there"
    if "seen_in" in feed:
        seen, checksum = feed["seen_in"][:, 0].copy(), feed["checksum_in"][0, :, 0].copy()
        assert seen.shape == checksum.shape == (rows,)
    else:
        seen, checksum = np.full(rows, _SEEN), np.full(rows, _CHECKSUM)
    for step in range(time):
        on = step < lengths
        seen[on] += 1
        checksum[on] = (31 * checksum[on] + values[on, step] @ [1, 7]) % _MODULUS
    logits = np.stack([checksum, seen], axis=1).astype(np.float32)
    given = {
        "logits": logits,
        "probabilities": -logits,
        "seen_out": logits[:, 1:],
        "checksum_out": logits[None, :, :1],
    }
    return [given[name] for name in output_names]


def make_runner(
    graph: Graph = FORWARD,
    run: SessionRun = checksums,
    *,
    cost: Coefficients | None = None,
    max_row_steps: int = 1 << 20,
    cached_row_steps: int = 1 << 11,
) -> Runner:
    return Runner(
        GraphRunner(graph, run),
        features=FEATURES,
        classes=2,
        max_steps=1 << 15,
        max_row_steps=max_row_steps,
        cached_row_steps=cached_row_steps,
        cost=CostModel(cost) if cost else CostModel(),
    )


def make_work(
    runner: Runner,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    begun: bool = False,
    deadline: float = math.inf,
    service_class: ServiceClass = ServiceClass.INTERACTIVE,
) -> Work:
    """Rows of whole numbers from 0 to 999; with the state of other steps where they have begun."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, (sum(lengths), runner.features)).astype(np.float32)
    state = None
    if begun:
        before = rng.integers(0, 1000, (len(lengths), 3, runner.features)).astype(np.float32)
        state = runner.graph(before, np.full(len(lengths), 3, np.int32)).state
    return Work(runner, RaggedBatch(values, np.array(lengths)), state, deadline, service_class)


def each_alone(work: Work) -> Outputs:
    """What a batch of one gives for each row, in their order."""
    graph = work.runner.graph
    state = work.state
    runs = [
        graph(
            row[None],
            np.array([len(row)], np.int32),
            None if state is None else graph.take_rows(state, np.array([index])),
        )
        for index, row in enumerate(work.rows)
    ]
    return Outputs(
        np.concatenate([run.logits for run in runs]),
        np.concatenate([run.probabilities for run in runs]),
        {
            tensor.name: np.concatenate(
                [run.state[tensor.name] for run in runs], axis=list(tensor.dims).index(-1)
            )
            for tensor in graph.state_tensors
        },
    )


def assert_same(given: Outputs, work: Work) -> None:
    """Every bit is what a batch of one gives; the state too, where it was asked for."""
    expected = each_alone(work)
    assert np.array_equal(given.logits, expected.logits)
    assert np.array_equal(given.probabilities, expected.probabilities)
    assert set(given.state) == (set(expected.state) if work.state is not None else set())
    for name, numbers in given.state.items():
        assert np.array_equal(numbers, expected.state[name])

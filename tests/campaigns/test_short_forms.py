"""Each campaign in short, for what it claims of answers, memory and descriptors; not of time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.server_process import TRANSPORTS, Server
from seqserve_client import Client
from tests.campaigns import chaos, job_kills, peers, soak
from tests.campaigns.attacks import ATTACKS, Attack, attacked
from tests.campaigns.harness import Claims
from tests.campaigns.pool import SequencePool
from tests.conftest import ModelRepository

SEQUENCES = 3_000
CALLS = 50
KILLS = 2


@pytest.fixture(scope="module", params=TRANSPORTS)
def attacked_server(
    request: pytest.FixtureRequest, repository: ModelRepository
) -> Iterator[tuple[Server, SequencePool]]:
    models = repository(lstm={"cell": "lstm"})
    with Server(models, request.param, core=None) as server:
        yield server, SequencePool(models, "lstm", CALLS, 60)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_others_are_answered_beside_a_hostile_peer_and_nothing_of_it_is_kept(
    attacked_server: tuple[Server, SequencePool], attack: Attack
) -> None:
    server, pool = attacked_server
    before_mib, before = server.resident_mib(), server.descriptors()
    message = pool.request(np.arange(2)).SerializeToString()
    with attacked(attack, server.address, message), Client(server.address) as client:
        for index in range(CALLS):
            chosen = np.array([index])
            answer = client.classify(pool.sequences(chosen), model=pool.model)
            assert not pool.wrong(chosen, answer.logits)
        assert server.resident_mib() - before_mib <= peers.MOST_MIB
    assert peers.wait_for_level(server, before) <= before


@pytest.mark.slow
@pytest.mark.alone  # versions are published meanwhile, and tried behind all other work
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_short_soak_loses_doubles_and_alters_nothing(transport: str) -> None:
    claims = Claims()
    soak.soak(transport, SEQUENCES, claims)
    assert not claims.broken


@pytest.mark.slow
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_call_is_answered_through_each_fault_once(transport: str) -> None:
    claims = Claims()
    chaos.chaos(transport, 0.0, claims)
    assert not claims.broken


@pytest.mark.slow
def test_a_job_that_is_killed_with_its_replicas_writes_the_same_bytes_and_no_shard_twice() -> None:
    claims = Claims()
    kills = job_kills.kill("service", KILLS, claims, shards=40)
    assert not claims.broken
    assert min(kills.jobs, kills.answerers) >= 1

"""Real servers on port 0, on both transports, and what their models say in-process."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, Unpack
from urllib.request import urlopen

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf import symbol_database
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from seqserve import artifact, ragged
from seqserve.graph import GraphRunner, Outputs
from seqserve.ragged import RaggedBatch
from seqserve.v1 import (
    catalog_pb2_grpc,
    classifier_pb2,
    classifier_pb2_grpc,
    repository_pb2_grpc,
)
from seqserve.v1.catalog_pb2 import MODEL_STATE_READY, ListModelsRequest, ModelStatus
from seqserve.v1.classifier_pb2 import AdvanceRequest
from seqserve_server.models.sessions import OpenSession, Session, opener
from seqserve_server.models.version_policy import VersionPolicy
from seqserve_server.options import ExecutionProvider, Transport
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.security import access
from seqserve_server.serving import Server
from seqserve_server.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, PublishedOptions

TIMEOUT_S = 60.0
"""A test that waits so long has failed; none is meant to come near."""

MODELS: dict[str, PublishedOptions] = {
    "lstm": {"cell": "lstm", "num_layers": 2, "head": "mean", "seed": 1},
    "gru": {"cell": "gru", "seed": 2},
    "rnn": {"cell": "rnn-tanh", "head": "max", "seed": 3},
    "both-ways": {"cell": "lstm", "bidirectional": True, "seed": 4},
}

Array = NDArray[np.float32]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Refusal:
    """The status of a call that failed, and the one detail that it carries, if any."""

    code: grpc.StatusCode
    message: str
    detail: Any

    @classmethod
    def of(cls, error: grpc.RpcError) -> Refusal:
        carried = rpc_status.from_call(error)  # type: ignore[arg-type]
        detail = None
        if carried is not None and carried.details:
            [packed] = carried.details
            detail = symbol_database.Default().GetSymbol(packed.TypeName())()
            assert carried.message == error.details()
            assert packed.Unpack(detail)
        return cls(error.code(), str(error.details()), detail)


@dataclass(frozen=True)
class Running:
    """A server in a thread of its own, and a channel to it."""

    server: Server
    channel: grpc.Channel
    loop: asyncio.AbstractEventLoop

    def wait_until_ready(self) -> None:
        """For a server that was run without waiting."""
        _run_on(self.loop, self.server.ready())

    def stop(self) -> None:
        """Drains the server before its context ends."""
        _run_on(self.loop, self.server.stop())

    @cached_property
    def classifier(self) -> classifier_pb2_grpc.SequenceClassifierStub:
        return classifier_pb2_grpc.SequenceClassifierStub(self.channel)

    @cached_property
    def catalog(self) -> catalog_pb2_grpc.ModelCatalogStub:
        return catalog_pb2_grpc.ModelCatalogStub(self.channel)

    @cached_property
    def operations(self) -> repository_pb2_grpc.ModelRepositoryStub:
        return repository_pb2_grpc.ModelRepositoryStub(self.channel)

    def classify(
        self, model: str, sequences: Sequence[Array], *, version: int = 0, top_k: int = 0
    ) -> classifier_pb2.ClassifyResponse:
        return self.classifier.Classify(
            classify_request(model, sequences, version=version, top_k=top_k), timeout=TIMEOUT_S
        )

    def refusal(self, request: classifier_pb2.ClassifyRequest | AdvanceRequest) -> Refusal:
        """How a request that must fail fails."""
        if isinstance(request, AdvanceRequest):
            return self.failure(lambda: self.classifier.Advance(request, timeout=TIMEOUT_S))
        return self.failure(lambda: self.classifier.Classify(request, timeout=TIMEOUT_S))

    @staticmethod
    def failure(call: Callable[[], object]) -> Refusal:
        """How a call that must fail fails."""
        with pytest.raises(grpc.RpcError) as raised:
            call()
        return Refusal.of(raised.value)

    def listed(self, model: str = "") -> list[ModelStatus]:
        """What ListModels says."""
        request = ListModelsRequest(model_name=model)
        return list(self.catalog.ListModels(request, timeout=TIMEOUT_S).models)

    def ready(self) -> list[str]:
        """Served versions, as `gru 3`: each is listed as READY, and SERVING by its health."""
        ready = [status for status in self.listed() if status.state == MODEL_STATE_READY]
        assert all(self.health(f"{each.name}/{each.version}") == "SERVING" for each in ready)
        return [f"{each.name} {each.version}" for each in ready]

    def health(self, service: str = "") -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))

    def scraped(self) -> str:
        """What Prometheus reads."""
        url = f"http://{self.server.metrics_address}/metrics"
        with urlopen(url, timeout=TIMEOUT_S) as response:
            text: str = response.read().decode()
        return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, among others perhaps."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.scraped())
            for sample in family.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        )

    def wait_for_steps(self, steps: int) -> None:
        """Until so many are under way."""
        scheduler = self.server._scheduler
        assert isinstance(scheduler, LaneScheduler)
        end = time.monotonic() + TIMEOUT_S
        while scheduler.queue_steps != steps:
            self.health()
            assert time.monotonic() < end, f"{scheduler.queue_steps} steps are under way"

    def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        """Until a metric is at least so much: the server may learn of it a little later."""
        end = time.monotonic() + TIMEOUT_S
        while self.metric(name, **labels) < value:
            assert time.monotonic() < end, self.scraped()


class Options(TypedDict, total=False):
    """Fields of Settings."""

    version_policy: VersionPolicy
    lanes: int
    max_concurrent_streams: int
    max_metadata_bytes: int
    keepalive_s: float
    keepalive_timeout_s: float
    max_connection_age_s: float
    max_connection_idle_s: float
    max_message_bytes: int
    max_request_sequences: int
    max_request_steps: int
    max_queue_steps: int
    token_key: bytes
    token_lifetime_s: float
    access_file: Path
    trusted_keys: Path
    poll_interval_s: float
    drain_pause_s: float
    drain_grace_s: float
    metrics_address: str
    otlp_endpoint: str


class RunServer(Protocol):
    """Runs a server, ready on entry, while the context lasts."""

    def __call__(
        self,
        repository: Path,
        *,
        open_session: OpenSession | None = None,
        wait_until_ready: bool = True,
        operator: bool = False,
        **settings: Unpack[Options],
    ) -> AbstractContextManager[Running]:
        """Where `operator`, it has an access file, and its channel a token with all rights."""
        ...


class Gate:
    """Holds the runs of every session it opens while it is shut."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        """Released once for each run that has reached the shut gate."""
        self.runs = 0
        self._open = threading.Event()
        self._open.set()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def wait_for_a_run(self) -> None:
        """Until a run stands at the gate: its lane is busy from then on."""
        assert self.entered.acquire(timeout=TIMEOUT_S)

    def open_session(self, model: bytes) -> Session:
        return _Gated(opener(ExecutionProvider.CPU)(model), self)

    def pass_through(self) -> None:
        self.runs += 1
        if not self._open.is_set():
            self.entered.release()
            assert self._open.wait(TIMEOUT_S)


class _Gated:
    def __init__(self, session: Session, gate: Gate) -> None:
        self._session = session
        self._gate = gate

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        self._gate.pass_through()
        return self._session.run(output_names, input_feed)

    def get_providers(self) -> Sequence[str]:
        return self._session.get_providers()


@pytest.fixture(scope="session", params=[Transport.NATIVE, Transport.GRPCIO], ids=str)
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


@pytest.fixture(scope="session")
def models(repository: ModelRepository) -> Path:
    """One version of each of MODELS."""
    return repository(**MODELS)


@pytest.fixture(scope="session")
def gru_alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gru` of `models`, for tests that ask for no other: its servers start in a quarter."""
    root = tmp_path_factory.mktemp("gru-alone")
    shutil.copytree(models / "gru", root / "gru")
    return root


@pytest.fixture(scope="session")
def run_server(
    transport: Transport, models: Path, gru_alone: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunServer:
    @contextmanager
    def run(
        repository: Path,
        *,
        open_session: OpenSession | None = None,
        wait_until_ready: bool = True,
        operator: bool = False,
        **settings: Unpack[Options],
    ) -> Iterator[Running]:
        token = access.new_token()
        if operator:
            settings["access_file"] = tmp_path_factory.mktemp("access") / "access.toml"
            grant = access.Grant("operator", access.sha256(token), frozenset(access.Right))
            settings["access_file"].write_text(access.entry(grant))
        if repository in (models, gru_alone):  # known to be good: no process has to try them first
            open_session = open_session or opener(ExecutionProvider.CPU)
        one_lane: Options = {"lanes": 1}
        told = Settings(
            repository, address="127.0.0.1:0", transport=transport, **(one_lane | settings)
        )
        with run_told(told, open_session, wait_until_ready=wait_until_ready) as running:
            channel = with_token(running.channel, token) if operator else running.channel
            yield replace(running, channel=channel)

    return run


@pytest.fixture(scope="session")
def server(run_server: RunServer, models: Path) -> Iterator[Running]:
    """A server of MODELS that no test changes."""
    with run_server(models) as running:
        yield running


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()  # or a failed test would leave its lanes waiting


@pytest.fixture(scope="session")
def in_process(models: Path) -> Callable[[str, Array], Outputs]:
    """A model's outputs for one sequence, a batch of one, from onnxruntime without a server."""

    @cache
    def graph(name: str) -> GraphRunner:
        folder = artifact.version_path(models, name, 1)
        session = onnxruntime.InferenceSession(
            folder / artifact.MODEL_FILE, providers=["CPUExecutionProvider"]
        )
        return GraphRunner(artifact.read_manifest(folder).graph, session.run)

    def outputs(name: str, sequence: Array) -> Outputs:
        return graph(name)(sequence[None], np.array([len(sequence)], np.int32))

    return outputs


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[Array]]:
    """Sequences of standard normal numbers, 3 features a step, of the lengths given."""

    def make(*lengths: int, seed: int = 0) -> list[Array]:
        rng = np.random.default_rng(seed)
        return [rng.standard_normal((length, 3), np.float32) for length in lengths]

    return make


@pytest.fixture(scope="session")
def make_request() -> Callable[..., classifier_pb2.ClassifyRequest]:
    return classify_request


def classify_request(
    model: str, sequences: Sequence[Array], *, version: int = 0, top_k: int = 0
) -> classifier_pb2.ClassifyRequest:
    return classifier_pb2.ClassifyRequest(
        model_name=model,
        model_version=version,
        sequences=ragged.encode(RaggedBatch.from_sequences(sequences)),
        top_k=top_k,
    )


@contextmanager
def run_told(
    settings: Settings, open_session: OpenSession | None = None, *, wait_until_ready: bool = True
) -> Iterator[Running]:
    """Runs a server that is told exactly this; its channel is plaintext."""
    with (
        _loop_in_a_thread() as loop,
        _started(loop, settings, open_session, wait_until_ready) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Running(server, channel, loop)


class _Token(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str) -> None:
        self._metadatum = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request: object,
    ) -> Any:  # noqa: ANN401
        metadata = (*(client_call_details.metadata or ()), self._metadatum)
        return continuation(client_call_details._replace(metadata=metadata), request)  # type: ignore[attr-defined]


def with_token(channel: grpc.Channel, token: str) -> grpc.Channel:
    """A channel whose calls show a token."""
    return grpc.intercept_channel(channel, _Token(token))


@pytest.fixture(scope="session")
def publish_as() -> Callable[[Path, Path, int], None]:
    """Copies version 1 of a model into another repository, as a version of one's choice."""

    def publish(model: Path, repository: Path, version: int) -> None:
        folder = repository / model.name / str(version)
        shutil.copytree(model / "1", folder)
        manifest = artifact.read_manifest(model / "1")
        manifest.version = version
        artifact.write_manifest(manifest, folder)

    return publish


@pytest.fixture(scope="session")
def published(
    repository: ModelRepository,
    publish_as: Callable[[Path, Path, int], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A repository of `gru` with versions 1, 2 and 3, and `lstm` with version 1."""
    root = tmp_path_factory.mktemp("published")
    for version in (1, 2, 3):
        publish_as(repository(gru={"cell": "gru", "seed": version}) / "gru", root, version)
    publish_as(repository(lstm={"seed": 9}) / "lstm", root, 1)
    return root


@pytest.fixture
def versions(published: Path, tmp_path: Path) -> Path:
    """A copy of `published` that the test may change."""
    return shutil.copytree(published, tmp_path / "models")


@contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _started(
    loop: asyncio.AbstractEventLoop,
    settings: Settings,
    open_session: OpenSession | None,
    wait_until_ready: bool,
) -> Iterator[Server]:
    server = Server(settings, open_session=open_session)
    try:
        _run_on(loop, server.start())
        if wait_until_ready:
            _run_on(loop, server.ready())
        yield server
    finally:
        _run_on(loop, server.stop())


def _run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(TIMEOUT_S)

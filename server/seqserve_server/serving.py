"""A server in one piece, started and stopped within a running event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from seqserve.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    classifier_pb2,
    classifier_pb2_grpc,
    repository_pb2,
    repository_pb2_grpc,
)
from seqserve_server import loading, sessions, transport
from seqserve_server.engine import Engine
from seqserve_server.errors import RepositoryMissing
from seqserve_server.health import Health
from seqserve_server.options import Transport
from seqserve_server.repository import Entry, Repository
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.work import Scheduler
from seqserve_server.servicers.catalog import ModelCatalogServicer
from seqserve_server.servicers.classifier import (
    Classifier,
    SequenceClassifierServicer,
    classifier_methods,
)
from seqserve_server.servicers.operations import ModelRepositoryServicer
from seqserve_server.sessions import OpenSession
from seqserve_server.settings import Settings
from seqserve_server.tokens import TokenSealer, random_key

_log = logging.getLogger(__name__)

SERVICES = (
    classifier_pb2.DESCRIPTOR.services_by_name["SequenceClassifier"].full_name,
    catalog_pb2.DESCRIPTOR.services_by_name["ModelCatalog"].full_name,
    repository_pb2.DESCRIPTOR.services_by_name["ModelRepository"].full_name,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)

LINGER_S = 0.05
"""From the last answer to the closing of connections. pygrpc-native 0.5 closes them at once, with
answers that it has not written yet; grpcio cancels calls that it has not handed over yet."""

CLOSE_S = 1.0
"""For other calls to end: those of operators, of reflection."""


class Server:
    """A server of one model repository.

    Usage:
        async with Server(Settings(Path("models"), address="127.0.0.1:0")) as server:
            channel = grpc.aio.insecure_channel(server.address)

    Args:
        settings: What it is told.
        open_session: Opens models in onnxruntime; as the settings say by default.
        make_scheduler: Another scheduler than the server's own.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        open_session: OpenSession | None = None,
        make_scheduler: Callable[[Settings], Scheduler] | None = None,
    ) -> None:
        self.settings = settings
        self.port = 0
        self._open_session = open_session
        self._health = Health()
        self._repository = Repository(
            settings.repository,
            settings.version_policy,
            lambda folder: loading.load(folder, self._opener()),
            lambda: self._health.publish(self._repository.entries()),
        )
        self._scheduler = (make_scheduler or _scheduler)(settings)
        self._engine = Engine(
            self._repository.find,
            self._scheduler,
            settings.request_limits,
            TokenSealer(settings.token_key or random_key(), settings.token_lifetime_s),
        )
        self._classifier = Classifier(self._engine)
        self._listener: transport.Listener | None = None
        self._loading: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT it listens on, once started."""
        return f"{self.settings.address.rpartition(':')[0]}:{self.port}"

    @property
    def entries(self) -> list[Entry]:
        """Every version known, by name and then version."""
        return self._repository.entries()

    async def start(self) -> None:
        """Listens, and begins to load; calls get UNAVAILABLE until their model is ready.

        Raises:
            CannotStart: says why.
        """
        self._check()
        await self.listen()
        await self.load()

    async def load(self) -> None:
        """Begins to load, without listening yet.

        Raises:
            CannotStart: says why.
        """
        self._check()
        settings = self.settings
        self._scheduler.start()
        self._loading = asyncio.create_task(self._repository.reload())
        if settings.stats_interval_s and isinstance(self._scheduler, LaneScheduler):
            self._reporting = asyncio.create_task(_report(self._scheduler, settings))

    async def listen(self) -> None:
        """Listens.

        Raises:
            CannotStart: says why.
        """
        settings = self.settings
        chosen = transport.resolve(settings.transport)
        listener = self._make_listener(chosen)
        await self._health.publish(self._repository.entries())
        self.port = transport.bind(listener, settings.address, processes=settings.processes)
        await listener.start()
        self._listener = listener
        if settings.token_key is None:
            _log.info(
                "no --token-key-file: tokens of live sequences will hold on this process alone"
            )
        if settings.processes == 1:  # of several, the one that starts them says it for all
            _log.info(
                "listening on %s (%s transport, %d %s)",
                self.address,
                chosen,
                settings.lanes,
                "lane" if settings.lanes == 1 else "lanes",
            )

    def _check(self) -> None:
        folder = self.settings.repository
        if not folder.is_dir():
            raise RepositoryMissing(f"{folder}: there is no such folder")
        self._open_session = self._open_session or sessions.opener(self.settings.execution_provider)

    async def ready(self) -> None:
        """Waits until every version that the policy wants is ready or refused.

        Raises:
            RepositoryMissing: the repository cannot be read.
        """
        assert self._loading is not None, "start() comes first"
        try:
            await asyncio.shield(self._loading)
        except OSError as error:
            raise RepositoryMissing(f"{self.settings.repository}: {error.strerror}") from error

    async def stop(self) -> None:
        """Drains: nothing that was admitted is lost within the grace."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.drain_pause_s)
        self._engine.drain()
        self._health.close()
        try:
            await asyncio.to_thread(self._scheduler.wait_until_idle, self.settings.drain_grace_s)
        finally:  # of a drain that is given up as well: nobody waits on
            await asyncio.to_thread(self._scheduler.close)
        if self._listener is not None:
            await asyncio.sleep(LINGER_S)
            await self._listener.stop(CLOSE_S)
        for task in (self._loading, self._reporting):
            if task is not None:
                task.cancel()
        await self._repository.close()

    async def __aenter__(self) -> Server:
        """Starts, and waits until ready."""
        await self.start()
        await self.ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drains."""
        await self.stop()

    def _opener(self) -> OpenSession:
        assert self._open_session is not None, "start() comes first"
        return self._open_session

    def _make_listener(self, chosen: Transport) -> transport.Listener:
        settings = self.settings
        server = transport.grpcio(settings.max_message_bytes, processes=settings.processes)
        catalog_pb2_grpc.add_ModelCatalogServicer_to_server(
            ModelCatalogServicer(self._repository), server
        )
        repository_pb2_grpc.add_ModelRepositoryServicer_to_server(
            ModelRepositoryServicer(self._repository, allowed=settings.allow_operator_calls),
            server,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(SERVICES, server)
        if chosen is Transport.NATIVE:
            methods = classifier_methods(self._classifier)
            return transport.native(
                methods, server, settings.max_message_bytes, processes=settings.processes
            )
        classifier_pb2_grpc.add_SequenceClassifierServicer_to_server(
            SequenceClassifierServicer(self._classifier), server
        )
        return server


def _scheduler(settings: Settings) -> Scheduler:
    return LaneScheduler(
        lanes=settings.lanes,
        max_queue_steps=settings.max_queue_steps,
        bulk_patience_s=settings.bulk_patience_s,
    )


async def _report(scheduler: LaneScheduler, settings: Settings) -> None:
    """Logs what the lanes did, again and again."""
    before, began = scheduler.stats(), time.monotonic()
    while True:
        await asyncio.sleep(settings.stats_interval_s)
        stats, now = scheduler.stats(), time.monotonic()
        _log.info("%s", stats.since(before).line(now - began))
        before, began = stats, now

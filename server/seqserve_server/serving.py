"""A server in one piece, started and stopped within a running event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from seqserve.golden import Proof
from seqserve.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    classifier_pb2,
    repository_pb2,
    repository_pb2_grpc,
)
from seqserve_server.engine import Engine
from seqserve_server.errors import RepositoryMissing
from seqserve_server.health import Health
from seqserve_server.models import loading, sessions
from seqserve_server.models.proving import Prover
from seqserve_server.models.repository import Entry, Repository
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.sessions import OpenSession
from seqserve_server.models.trust import Trust
from seqserve_server.models.watchdog import Watchdog
from seqserve_server.observability import tracing
from seqserve_server.observability.metrics.calls import Calls
from seqserve_server.observability.metrics.changes import Changes
from seqserve_server.options import Transport
from seqserve_server.scheduling.scheduler import LaneScheduler
from seqserve_server.scheduling.work import Scheduler
from seqserve_server.security import access, tls
from seqserve_server.security.guard import Guard
from seqserve_server.security.tokens import TokenSealer, random_key
from seqserve_server.security.watched import Watched
from seqserve_server.servicers.catalog import ModelCatalogServicer
from seqserve_server.servicers.classifier import (
    Classifier,
    SequenceClassifierServicer,
    add_to_server,
    classifier_methods,
)
from seqserve_server.servicers.operations import ModelRepositoryServicer
from seqserve_server.settings import Settings
from seqserve_server.transports import transport

if TYPE_CHECKING:
    from seqserve_server.observability.metrics.endpoint import Endpoint

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

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

LOOK_INTERVAL_S = 1.0
"""After so long a change to the access file or the certificates is seen."""

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
        self._changes = Changes()
        self._prover = Prover(settings.execution_provider, behind=lambda: self._repository.serves)
        # Another process opens models in the one way that it knows.
        attempt = self._prover.attempt if open_session is None else None
        self._repository = Repository(
            settings.repository,
            settings.version_policy,
            self._changes.counting(lambda folder: self._load(folder, attempt)),
            lambda: self._health.publish(self._repository.entries()),
            on_look=lambda failed: self._changes.looked(failed=failed),
            load_again=lambda folder, digest: self._load(folder, digest=digest),
            on_rest=self._prover.rest,
        )
        self._scheduler = (make_scheduler or _scheduler)(settings)
        self._counts = Calls(self._repository.knows) if settings.metrics_address else None
        self._metrics = self._endpoint(self._counts) if self._counts else None
        self._spans = tracing.prepare(settings.otlp_endpoint) if settings.otlp_endpoint else None
        self._engine = Engine(
            self._repository.find,
            self._spans.scheduler(self._scheduler) if self._spans else self._scheduler,
            settings.request_limits,
            TokenSealer(settings.token_key or random_key(), settings.token_lifetime_s),
        )
        self._classifier = Classifier(self._engine)
        self._listener: transport.Listener | None = None
        self._loading: asyncio.Task[None] | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._looking: list[asyncio.Task[None]] = []
        self._trust: Trust | None = None
        self._access: Watched[access.Access] | None = None
        self._certificates: tls.Certificates | None = None

    @property
    def address(self) -> str:
        """HOST:PORT it listens on, once started."""
        return f"{self.settings.address.rpartition(':')[0]}:{self.port}"

    @property
    def entries(self) -> list[Entry]:
        """Every version known, by name and then version."""
        return self._repository.entries()

    @property
    def metrics_address(self) -> str:
        """HOST:PORT of the metrics, once started; empty where there are none."""
        return self._metrics.address if self._metrics else ""

    async def start(self) -> None:
        """Listens, and begins to load; calls get UNAVAILABLE until their model is ready.

        Raises:
            CannotStart: says why.
        """
        self._check()
        self._observe()
        try:
            await self.listen()
            await self.load()
        except BaseException:
            await self._observe_no_more()
            raise

    async def load(self) -> None:
        """Begins to load, without listening yet.

        Raises:
            CannotStart: says why.
        """
        self._check()
        self._observe()
        settings = self.settings
        self._scheduler.start()
        self._loading = asyncio.create_task(self._repository.reload())
        if isinstance(self._scheduler, LaneScheduler):
            watchdog = Watchdog(self._scheduler, self._health, self._repository)
            self._looking.append(asyncio.create_task(watchdog.watch()))
        if settings.poll_interval_s:
            self._looking.append(asyncio.create_task(self._poll()))
        if settings.stats_interval_s and isinstance(self._scheduler, LaneScheduler):
            self._reporting = asyncio.create_task(_report(self._scheduler, settings))

    async def listen(self) -> None:
        """Listens.

        Raises:
            CannotStart: says why.
        """
        settings = self.settings
        chosen = transport.resolve(settings.transport, grpcio_only=settings.grpcio_only)
        listener = self._make_listener(chosen)
        self._health.publish(self._repository.entries())
        self.port = transport.bind(
            listener,
            settings.address,
            credentials=self._credentials(),
            processes=settings.processes,
        )
        await listener.start()
        self._listener = listener
        if settings.token_key is None:
            _log.info(
                "no --token-key-file: tokens of live sequences will hold on this process alone"
            )
        if settings.processes == 1:  # of several, the one that starts them says it for all
            _log.info(
                "listening on %s (%s transport%s, %d %s)",
                self.address,
                chosen,
                settings.protection,
                settings.lanes,
                "lane" if settings.lanes == 1 else "lanes",
            )

    def _check(self) -> None:
        folder = self.settings.repository
        if not folder.is_dir():
            raise RepositoryMissing(f"{folder}: there is no such folder")
        self._open_session = self._open_session or sessions.opener(self.settings.execution_provider)
        settings = self.settings
        if settings.trusted_keys is not None and self._trust is None:
            self._trust = Trust(settings.trusted_keys)
        if settings.access_file is not None and self._access is None:
            self._access = access.watched(settings.access_file)
        if settings.tls_certificate and settings.tls_key and self._certificates is None:
            self._certificates = tls.watched(
                settings.tls_certificate, settings.tls_key, settings.tls_client_ca
            )

    def _observe(self) -> None:
        if self._spans is not None:
            self._spans.start()
        if self._metrics is not None:
            self._metrics.start()

    async def _observe_no_more(self) -> None:
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.stop)

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
        self._health.drain()
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
        for task in (self._loading, self._reporting, *self._looking):
            if task is not None:
                task.cancel()
        self._prover.close()
        await self._repository.close()
        await self._observe_no_more()

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

    def _endpoint(self, counts: Calls) -> Endpoint:
        # Imported here alone: whoever wants no metrics does not wait for prometheus-client.
        from seqserve_server.observability.metrics.endpoint import Endpoint
        from seqserve_server.observability.metrics.families import Families, Sources

        settings, lanes = self.settings, self._scheduler
        sources = Sources(
            counts,
            self._changes,
            self._repository,
            self._health,
            lanes if isinstance(lanes, LaneScheduler) else None,
            settings.max_queue_steps,
            settings.processes,
        )
        return Endpoint(Families(sources), settings.metrics_address)

    async def _poll(self) -> None:
        """From when the first look is over."""
        with suppress(RepositoryMissing):  # `ready` says it
            await self.ready()
        await self._repository.poll(self.settings.poll_interval_s)

    def _opener(self) -> OpenSession:
        assert self._open_session is not None, "start() comes first"
        return self._open_session

    def _load(
        self, folder: Path, try_first: loading.Try | None = None, *, digest: str = ""
    ) -> tuple[ServedModel, Proof]:
        signed = self._trust.check if self._trust else None
        return loading.load(folder, self._opener(), try_first, signed=signed, digest=digest)

    def _watch(self, watched: Watched[_T]) -> Watched[_T]:
        self._looking.append(asyncio.create_task(_look(watched)))
        return watched

    def _credentials(self) -> grpc.ServerCredentials | None:
        if self._certificates is None:
            return None
        mutual = self.settings.tls_client_ca is not None
        return tls.credentials(self._watch(self._certificates), mutual=mutual)

    def _make_listener(self, chosen: Transport) -> transport.Listener:
        settings = self.settings
        limits = settings.connection_limits
        guard = Guard(self._watch(self._access), self._counts) if self._access else None
        # The span first: refusals have one too.
        interceptors = [
            *([self._spans.interceptor()] if self._spans else []),
            *([guard] if guard else []),
        ]
        if chosen is Transport.NATIVE:
            server = transport.behind_native(settings.max_message_bytes, interceptors, self._counts)
        else:
            server = transport.grpcio(
                settings.max_message_bytes,
                limits,
                interceptors=interceptors,
                counts=self._counts,
                processes=settings.processes,
            )
        catalog_pb2_grpc.add_ModelCatalogServicer_to_server(
            ModelCatalogServicer(self._repository, self._counts), server
        )
        repository_pb2_grpc.add_ModelRepositoryServicer_to_server(
            ModelRepositoryServicer(
                self._repository, refusal=_operator_refusal(settings), counts=self._counts
            ),
            server,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(SERVICES, server)
        if chosen is Transport.NATIVE:
            methods = classifier_methods(self._classifier)
            return transport.native(
                methods,
                server,
                settings.max_message_bytes,
                limits,
                admit=guard.admit_classifying if guard else None,
                counts=self._counts,
                spans=self._spans,
                processes=settings.processes,
            )
        add_to_server(SequenceClassifierServicer(self._classifier, self._counts), server)
        return server


def _scheduler(settings: Settings) -> Scheduler:
    return LaneScheduler(
        lanes=settings.lanes,
        max_queue_steps=settings.max_queue_steps,
        bulk_patience_s=settings.bulk_patience_s,
    )


def _operator_refusal(settings: Settings) -> str:
    if settings.processes > 1:
        return (
            f"this server is {settings.processes} processes, and a call would reach one of them "
            "only: it takes no operator calls; start it again to serve other versions"
        )
    if settings.access_file is None:
        return (
            "this server takes no operator calls: it was started without --access-file, which "
            "says whose token is good for them"
        )
    return ""


async def _look(watched: Watched[Any]) -> None:
    """Looks for changes, again and again."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        try:
            await asyncio.to_thread(watched.look)
        except Exception:  # as where no thread can be had: or nobody would look any more
            _log.exception("what is given in files could not be looked at")


async def _report(scheduler: LaneScheduler, settings: Settings) -> None:
    """Logs what the lanes did, again and again."""
    before, began = scheduler.stats(), time.monotonic()
    while True:
        await asyncio.sleep(settings.stats_interval_s)
        stats, now = scheduler.stats(), time.monotonic()
        _log.info("%s", stats.since(before).line(now - began))
        before, began = stats, now

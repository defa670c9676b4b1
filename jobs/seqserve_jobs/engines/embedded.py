"""This process answers: the server's own core without a server, for sets known beforehand.

One version is loaded as a server would load it, its golden set proved on this host, and kept in
memory from then on: what happens in the repository meanwhile changes nothing.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve.ragged import RaggedBatch
from seqserve_jobs.engines.engine import Model, Scores
from seqserve_jobs.errors import EngineError
from seqserve_server import cores
from seqserve_server.errors import Draining, InvalidSetting
from seqserve_server.models.loading import Signed, load
from seqserve_server.models.served_model import ServedModel
from seqserve_server.models.sessions import opener
from seqserve_server.models.trust import Trust
from seqserve_server.options import ExecutionProvider
from seqserve_server.scheduling.offline_lanes import Answers, OfflineLanes

_log = logging.getLogger(__name__)

_AHEAD = 2
"""Batches: lanes that find nothing left of one go on with the next."""


class EmbeddedEngine:
    """Answers by a version of a model repository, in this process.

    Args:
        repository: The model repository.
        model: Name of the model.
        version: Of it; 0 for the newest that can be served.
        lanes: Runs at the same time; by default as many as cores are granted.
        trusted_keys: Ed25519 public keys in PEM, one of which has to have signed the version;
            without, no signature is needed.

    Raises:
        EngineError: there is no such version, or it is not sound or not signed.
    """

    def __init__(
        self,
        repository: Path,
        model: str,
        version: int = 0,
        *,
        lanes: int | None = None,
        trusted_keys: Path | None = None,
    ) -> None:
        served = _load(repository, model, version, _signed(trusted_keys))
        self.model = Model.of(served.manifest, served.digest)
        """Who answers."""
        self.ahead = _AHEAD
        """As `Engine.ahead`."""
        self.lanes = lanes or cores.granted()
        """Runs at the same time."""
        self._lanes = OfflineLanes(served.runner, self.lanes)
        self._lanes.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def submit(self, batch: RaggedBatch) -> Future[Scores]:
        """As `Engine.submit`."""
        future: Future[Scores] = Future()
        future.set_running_or_notify_cancel()
        try:
            self._lanes.submit(batch, partial(_settle, future))
        except Draining as error:
            _settle(future, error)
        return future

    def close(self) -> None:
        """As `Engine.close`; runs that have begun, of some milliseconds, are waited for."""
        self._lanes.close()


def _settle(future: Future[Scores], outcome: Answers | Exception) -> None:
    if isinstance(outcome, Answers):
        future.set_result(Scores(*outcome))
        return
    if isinstance(outcome, Draining):
        error = EngineError("the engine was closed before it answered")
    else:
        error = EngineError(f"a run failed: {type(outcome).__name__}: {outcome}")
    error.__cause__ = outcome
    future.set_exception(error)


def _signed(trusted_keys: Path | None) -> Signed | None:
    try:
        return Trust(trusted_keys).check if trusted_keys is not None else None
    except InvalidSetting as error:
        raise EngineError(str(error)) from error


def _load(repository: Path, model: str, version: int, signed: Signed | None) -> ServedModel:
    refused: dict[int, InvalidArtifact] = {}
    for candidate in _candidates(repository, model, version):
        try:
            served, _ = load(
                artifact.version_path(repository, model, candidate),
                opener(ExecutionProvider.CPU),
                signed=signed,
            )
        except InvalidArtifact as error:
            refused[candidate] = error
        else:
            for newer, why in refused.items():
                _log.warning("%s version %d is not sound: %s", model, newer, why)
            return served
    raise EngineError(
        f"no version of {model} can be served: {'; '.join(map(str, refused.values()))}"
    )


def _candidates(repository: Path, model: str, version: int) -> list[int]:
    """Versions to try, the newest first."""
    try:
        models = artifact.models(repository)
        versions = artifact.versions(repository, model) if model in models else []
    except OSError as error:
        raise EngineError(
            f"{repository}: is no model repository that can be read: {error.strerror}"
        ) from error
    if not versions:
        has = ", ".join(models) or "none"
        raise EngineError(f"{repository}: has no version of a model {model!r}; models: {has}")
    if not version:
        return versions[::-1]
    if version not in versions:
        has = ", ".join(map(str, versions))
        raise EngineError(f"{repository}: has no version {version} of {model}; it has {has}")
    return [version]

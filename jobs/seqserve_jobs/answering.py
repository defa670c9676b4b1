"""Who answers, by what `seqserve score` was told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seqserve_client import InvalidOptions
from seqserve_client.flags import client_told
from seqserve_jobs.choices import Where
from seqserve_jobs.flags import HERE
from seqserve_jobs.job import Job
from seqserve_jobs.ledger import begun
from seqserve_jobs.options import JobOptions
from seqserve_jobs.summary import Summary

if TYPE_CHECKING:
    from seqserve_jobs.engines.engine import Engine

_OF_A_SERVICE = (
    *("window", "patience", "timeout", "tls", "ca_file", "certificate_file", "key_file"),
    *("token_file", "token_in_plaintext"),
)
_OF_RAY = ("ray_address", "workers")


def version_of(ctx: typer.Context, options: JobOptions) -> int:
    """The model's version that the command was told, or that it goes on with; 0 for the newest."""
    version: int = ctx.params["version"]
    if not version and not options.restart:
        job = begun(options.output, options.storage_options)
        if job is not None and job.model == ctx.params["model"]:
            version = job.version  # the newest then; since, a newer one may have come
    return version


def opener(
    ctx: typer.Context, lanes: int | None = None, stop: threading.Event | None = None
) -> Callable[[int], Engine]:
    """Opens who answers, with the model's version, by what the command was told.

    Args:
        ctx: What it was told.
        lanes: Of one in the process; by default as it was told.
        stop: Once it is set, nobody waits for a service that is away. Without it, what is returned
            can be pickled.

    Raises:
        InvalidOptions: it was told what cannot be.
    """
    server, repository = _server_or_repository(ctx)
    told = ctx.params
    if server is not None:
        return partial(
            _open_service,
            {name: _anywhere(told[name]) for name in (*_OF_A_SERVICE, "server", "model")},
            stop=stop,
        )
    from seqserve_jobs.engines.embedded import EmbeddedEngine

    keys: Path | None = told["trusted_keys"]
    return partial(
        EmbeddedEngine,
        repository.absolute(),
        told["model"],
        lanes=lanes or told["lanes"],
        trusted_keys=keys.absolute() if keys else None,
    )


def _anywhere(value: object) -> object:
    """The same for a process in another folder."""
    return value.absolute() if isinstance(value, Path) else value


def _open_service(told: Mapping[str, Any], version: int, *, stop: threading.Event | None) -> Engine:
    from seqserve_jobs.engines.service import ServiceEngine

    return ServiceEngine(
        client_told(told),
        told["model"],
        version,
        window=told["window"],
        patience_s=told["patience"],
        stop=stop,
    )


def run_job(ctx: typer.Context, job: Job, answerer: Engine) -> Summary:
    """Here or on a cluster, as the command was told."""
    told = ctx.params
    if told["engine"] is Where.LOCAL:
        from seqserve_jobs.pipeline import run

        return run(job, answerer)
    from seqserve_jobs.engines.ray_data import RayOptions, run_on_ray

    answerer.close()  # it has told who answers; workers have their own
    lanes = told["lanes"] or 1
    ray_options = RayOptions(told["ray_address"], told["workers"], cpus=lanes)
    return run_on_ray(job, partial(opener(ctx, lanes), answerer.model.version), ray_options)


def _server_or_repository(ctx: typer.Context) -> tuple[str | None, Path]:
    """The one to compute with: of two, the one that is told on the command line itself.

    Raises:
        InvalidOptions: neither can be, or both are told, or an option of the other one is.
    """
    if ctx.params["engine"] is not Where.RAY:
        _refuse_flags(ctx, _OF_RAY, "without --engine ray")
    server, repository = ctx.params["server"], ctx.params["repository"]
    if server and repository is not None:
        if _is_flag(ctx, "server") == _is_flag(ctx, "repository"):
            raise InvalidOptions(
                f"--server {server} and --repository {repository} are both told; a job is computed "
                "by one of them: leave the other out"
            )
        server = server if _is_flag(ctx, "server") else None
    if server:
        _refuse_flags(ctx, ("lanes", "trusted_keys"), "with --server: the service has its own")
        return server, HERE
    _refuse_flags(ctx, _OF_A_SERVICE, "without --server")
    if find_spec("onnxruntime") is None:
        raise InvalidOptions(
            "no --server is named, and what computes in this process is not installed: name a "
            "service with --server HOST:PORT, or pip install 'seqserve[server]'"
        )
    if repository is None and not HERE.is_dir():
        raise InvalidOptions(
            f"no --server is named, and there is no model repository {HERE} here: name one of "
            "them, with --server HOST:PORT or --repository FOLDER"
        )
    return None, repository or HERE


def _refuse_flags(ctx: typer.Context, names: Sequence[str], where: str) -> None:
    """Refuses flags that would change nothing."""
    for name in names:
        if _is_flag(ctx, name):
            raise InvalidOptions(f"--{name.replace('_', '-')} is of no effect {where}")


def _is_flag(ctx: typer.Context, name: str) -> bool:
    """Whether it is told on the command line, not by the environment or a default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"

"""The room's subcommand. Light to import: `seqserve --help` imports it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

from seqserve_client import flags as client_flags
from seqserve_jobs import flags
from seqserve_jobs.choices import PATIENCE_S, SHARD_SEQUENCES, SHARD_STEPS, WINDOW, Shown, Where
from seqserve_jobs.on_error import OnError

if TYPE_CHECKING:
    from seqserve_jobs.options import JobOptions
    from seqserve_jobs.progress import Display

_TIMEOUT_S = 120.0
_LINES_S = 10.0
_SOME_REFUSED = 3
_STDOUT = "-"
_FINISHING = "seqserve score: finishing the shards under way; the same signal again ends it at once"


def score(
    ctx: typer.Context,
    input: flags.Inputs,
    output: flags.Output,
    model: flags.ModelName,
    version: flags.Version = 0,
    repository: flags.Repository = None,
    server: flags.Server = None,
    engine: flags.Engine = Where.LOCAL,
    ray_address: flags.RayAddress = None,
    workers: flags.Workers = None,
    lanes: flags.Lanes = None,
    trusted_keys: flags.TrustedKeys = None,
    window: flags.Window = WINDOW,
    patience: flags.Patience = PATIENCE_S,
    id: flags.Id = None,
    order: flags.Order = None,
    features: flags.Features = None,
    storage_options: flags.StorageOptions = None,
    keep: flags.Keep = None,
    top_k: flags.TopK = 0,
    logits: flags.Logits = False,
    on_error: flags.OnErrorFlag = OnError.RECORD,
    restart: flags.Restart = False,
    shard_sequences: flags.ShardSequences = SHARD_SEQUENCES,
    shard_steps: flags.ShardSteps = SHARD_STEPS,
    progress: flags.Progress = Shown.AUTO,
    interval: flags.Interval = _LINES_S,
    summary: flags.SummaryFile = None,
    timeout: client_flags.Timeout = _TIMEOUT_S,
    tls: client_flags.TLS = False,
    ca_file: client_flags.CAFile = None,
    certificate_file: client_flags.CertificateFile = None,
    key_file: client_flags.KeyFile = None,
    token_file: client_flags.TokenFile = None,
    token_in_plaintext: client_flags.TokenInPlaintext = False,
) -> None:
    """Score files of any size: every sequence once, whatever happens on the way.

    The same command goes on where one that was stopped or killed has left off, and ends with the
    same bytes. Exits with 0; 3 where sequences were refused; 1 where the job failed, 2 where it was
    called wrongly; 130 and 143 where Ctrl-C or SIGTERM stopped it after the shards under way.
    """
    from seqserve_client import InvalidOptions, SeqserveError
    from seqserve_data import Columns, DataError, split_names
    from seqserve_jobs.errors import InvalidJob, JobError, JobStopped

    with client_flags.errors_in_a_line("score", JobError, DataError, OSError):
        from seqserve_jobs import answering
        from seqserve_jobs.interruption import noticed
        from seqserve_jobs.job import Job
        from seqserve_jobs.options import JobOptions
        from seqserve_jobs.progress import Tally
        from seqserve_jobs.report import report

        job: Job | None = None
        try:
            options = JobOptions(
                input=input[0] if len(input) == 1 else tuple(input),
                output=output,
                columns=Columns(id=id, order=order, features=split_names(features)),
                keep=split_names(keep),
                top_k=top_k,
                logits=logits,
                on_error=on_error,
                max_sequences=shard_sequences,
                max_steps=shard_steps,
                restart=restart,
                storage_options=_storage_options(storage_options),
            )
            _check_summary(summary, options)
            with (
                noticed(_FINISHING) as interruption,
                answering.opener(ctx, stop=interruption.asked)(
                    answering.version_of(ctx, options)
                ) as answerer,
                _display(progress, interval) as display,
                Job(options, answerer.model, Tally(display), interruption.asked) as job,
            ):
                interruption.under_way = True
                done = answering.run_job(ctx, job, answerer)
        except InvalidJob as error:
            raise InvalidOptions(str(error)) from error
        except InvalidOptions:
            raise
        except JobStopped as stopped:
            _write(stopped.summary.as_dict(), summary)
            typer.echo(f"seqserve score: {stopped}", err=True)
            raise typer.Exit(interruption.exit_code) from stopped
        except (JobError, DataError, SeqserveError, OSError) as error:
            # Or whoever reads it would take that of the run before for this one's.
            so_far = {"model": model, "output": output} if job is None else job.summary().as_dict()
            _write({**so_far, "finished": False, "error": str(error)}, summary)
            raise
        _write(done.as_dict(), summary)
        if progress is not Shown.OFF or done.refused_in_all:
            typer.echo(report(done), err=True)
        if done.refused_in_all:
            raise typer.Exit(_SOME_REFUSED)


@contextmanager
def _display(shown: Shown, interval_s: float) -> Iterator[Display]:
    """Shows progress on standard error while the context lasts."""
    from rich.console import Console

    from seqserve_jobs.progress import Bar, Lines, Nothing

    console = Console(stderr=True)
    if shown is Shown.AUTO:
        shown = Shown.BAR if console.is_terminal else Shown.LINES
    if shown is Shown.BAR:
        bar = Bar(console)
        with bar.drawn:
            yield bar
    elif shown is Shown.LINES:
        yield Lines(lambda line: typer.echo(line, err=True), interval_s)
    else:
        yield Nothing()


def _storage_options(text: str | None) -> Mapping[str, Any]:
    from seqserve_client import InvalidOptions

    try:
        read = json.loads(text or "{}")
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise InvalidOptions(  # without what it is: there may be a key in it
            '--storage-options is no JSON object, as {"anon": true} is one'
        )
    return read


def _check_summary(to: str | None, options: JobOptions) -> None:
    """Before hours of work, not after."""
    from seqserve_data.stream.files import find
    from seqserve_jobs.errors import InvalidJob
    from seqserve_jobs.input_places import refuse_summary
    from seqserve_jobs.output import Output

    if to is None or to == _STDOUT:
        return
    if os.path.isdir(to):
        raise InvalidJob(f"--summary {to}: is a folder; name a file")
    if os.path.exists(to) and not os.path.isfile(to):
        return
    if not os.path.isdir(os.path.dirname(os.path.realpath(to))):
        raise InvalidJob(f"--summary {to}: there is no such folder")
    files = [file.name for file in find(options.input, options.storage_options)]
    output = Output.at(options.output, options.storage_options)
    refuse_summary(to, files, output, options)


def _write(done: Mapping[str, Any], to: str | None) -> None:
    """The summary as JSON; a file appears whole or not at all."""
    from seqserve_jobs.storage.local import LocalFiles

    text = json.dumps(done, indent=2, ensure_ascii=False)
    if to is None:
        return
    if to == _STDOUT or _is_open_as(to, sys.stdout):
        typer.echo(text)
    elif _is_open_as(to, sys.stderr):
        typer.echo(text, err=True)
    elif os.path.exists(to) and not os.path.isfile(to):  # a pipe or a device: it stays one
        with open(to, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
    else:
        LocalFiles().put(os.path.realpath(to), f"{text}\n".encode())


def _is_open_as(path: str, stream: TextIO) -> bool:
    """Whether it is what a stream goes to, as /dev/stdout is: nobody may put another there."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except (OSError, ValueError):
        return False

"""What can go wrong in a job.

JobError
├── InvalidJob     options that cannot be; nothing was done
├── JobChanged     input, model or options are no more what the job was begun with
├── OutputInUse    another job writes there
├── OutputError    what cannot be written, and why
├── BadSequence    a sequence that the model cannot take, where `--on-error fail` was asked for
├── JobStopped     as it was asked to; says how to go on
└── EngineError    no answer: the model is gone, or the service, or what computes failed
    └── GivenUp    no answer yet, and not waited for: the job is to stop
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqserve_jobs.summary import Summary


class JobError(Exception):
    """Base of every error of this package; the message is for people."""


class InvalidJob(JobError):
    """Options that cannot be; nothing was done."""


class JobChanged(JobError):
    """Input, model or options are no more what the job was begun with; says which."""


class OutputInUse(JobError):
    """Another job writes there."""


class OutputError(JobError):
    """What cannot be written, and why."""


class BadSequence(JobError):
    """A sequence that the model cannot take, where a job was told to fail for one."""


class EngineError(JobError):
    """No answer: the model is gone, or the service, or what computes failed."""


class GivenUp(EngineError):
    """No answer yet, and not waited for: the job is to stop."""


class JobStopped(JobError):
    """It was asked to stop, and has: what was under way is done; says how to go on.

    Args:
        message: For people.
        summary: What is done.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary

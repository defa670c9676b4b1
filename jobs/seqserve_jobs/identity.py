"""What makes two runs one job: the same input, model and options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from seqserve_data.stream import Input
from seqserve_jobs.engines.engine import Model
from seqserve_jobs.errors import JobChanged
from seqserve_jobs.input_files import Sizes, difference
from seqserve_jobs.on_error import OnError
from seqserve_jobs.options import FLAGS, JobOptions

FORM = 1
"""Of what is written: one more whenever equal jobs would no longer write equal bytes."""


@dataclass(frozen=True)
class Identity:
    """What a job is. What does not show in its output is no part of it: who computes, and where."""

    form: int
    model: str
    version: int
    digest: str
    files: Sizes
    """Sizes of the input's files in bytes, by name; they tell people what changed."""
    fingerprint: str
    """Of the input, contents and all."""
    options: Mapping[str, Any]
    """Those that show in the output."""

    @classmethod
    def of(cls, options: JobOptions, model: Model, read: Input, files: Sizes) -> Identity:
        """The job that this is: with the columns that were chosen, however they were told."""
        layout = read.layout
        shown = {
            "id": layout.id,
            "order": layout.order,
            "features": list(layout.features),
            "keep": list(layout.kept),
            "top_k": options.top_k,
            "logits": options.logits,
            "on_error": str(options.on_error),
            "max_sequences": options.max_sequences,
            "max_steps": options.max_steps,
        }
        named = (model.name, model.version, model.digest)
        return cls(FORM, *named, files, read.fingerprint(), shown)

    def going_on(self, begun: Identity) -> Identity:
        """The job that was begun, as it goes on.

        A job that fails for a bad sequence has written nothing of one; so what is to become of bad
        sequences may be decided then.

        Raises:
            JobChanged: it is another job; says in what.
        """
        on_errors = (begun.options["on_error"], self.options["on_error"])
        if OnError.FAIL in on_errors:
            chosen = next((chosen for chosen in on_errors if chosen != OnError.FAIL), OnError.FAIL)
            begun, now = (
                replace(each, options={**each.options, "on_error": str(chosen)})
                for each in (begun, self)
            )
        else:
            now = self
        if differences := list(_differences(begun, now)):
            raise JobChanged("; ".join(differences))
        return now


def _differences(begun: Identity, now: Identity) -> Iterator[str]:
    if begun.form != now.form:
        yield f"this version writes form {now.form}, the job was begun with form {begun.form}"
    if begun.model != now.model or begun.version != now.version:
        yield (
            f"the model is {now.model} version {now.version}, the job was begun with "
            f"{begun.model} version {begun.version}"
        )
    elif begun.digest != now.digest:
        yield (
            f"{now.model} version {now.version} is not the same any more: its digest is "
            f"{now.digest[:12]}…, the job was begun with {begun.digest[:12]}…"
        )
    if begun.fingerprint != now.fingerprint:
        yield f"the input changed: {difference(begun.files, now.files)}"
    for name, value in now.options.items():
        if (before := begun.options.get(name)) != value:
            yield f"{FLAGS[name]} is {_shown(value)}, the job was begun with {_shown(before)}"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

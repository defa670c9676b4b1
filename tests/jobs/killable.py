"""A job in a process of its own, which tells what it is about to do; for being killed meanwhile.

Each thing it does is a line on standard output: what it opens, renames or removes of its output,
and each batch that it has computed, by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

from seqserve.ragged import RaggedBatch
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.job import JobOptions, score_files
from tests.jobs.watched import Watched

_WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def main(told: str) -> None:
    options = json.loads(told)
    output = options["output"]

    def tell(event: str, arguments: tuple[object, ...]) -> None:
        if event in _WATCHED and str(arguments[0]).startswith(output):
            _say(f"{event} {arguments[0]}")

    sys.addaudithook(tell)
    with EmbeddedEngine(Path(options.pop("models")), "speakers", lanes=1) as engine:
        watched = Watched(engine, on_batch=lambda batch: _say(f"batch {digest(batch)}"))
        score_files(JobOptions(**options), watched)
    _say("finished")


def digest(batch: RaggedBatch) -> str:
    return hashlib.sha256(batch.values.tobytes()).hexdigest()


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])

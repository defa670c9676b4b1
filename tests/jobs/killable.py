"""Jobs in processes of their own, which tell what they are about to do; for being killed meanwhile.

Each thing a job does is a line on standard output: what it opens, renames or removes of its output,
and each batch that it has computed, by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from seqserve.ragged import RaggedBatch
from seqserve_jobs.engines.embedded import EmbeddedEngine
from seqserve_jobs.job import JobOptions, score_files
from tests.jobs.watched import Watched

_WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def main() -> None:
    """Begins a job for each line of standard input, when the one before has ended.

    Each is a fork of this process, which has imported all that takes long, and has done nothing.
    """
    process = 0
    for told in iter(sys.stdin.readline, ""):
        if process:
            os.waitpid(process, 0)
        process = os.fork()
        if not process:
            _do_and_exit(told)
        # Its number stays its own until the next one: whoever kills it late hits nobody else.
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        _say(f"ended {ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status}")


def _do_and_exit(told: str) -> NoReturn:
    code = 1
    try:
        _say(f"process {os.getpid()}")
        _do(told)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def _do(told: str) -> None:
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
    main()

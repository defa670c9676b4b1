"""Calls servers without a pause and tells what came of it: `callers.py SERVER MODEL CALLERS CALLS`.

Needs the client alone, for it runs in a container of the server's image. Prints how many calls have
ended, every hundred, and in the end a line of JSON: what failed, all logits that each sequence was
answered with, and the seconds that it took, by which throughputs may be compared.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from seqserve_client import Client, SeqserveError

_EVERY = 100
_TIMEOUT_S = 60.0


def sequences(features: int) -> list[NDArray[np.float32]]:
    """The same wherever they are made, of 1 to 29 steps."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal((steps, features), np.float32) for steps in range(1, 30)]


def main(address: str, model: str, callers: int, calls: int) -> None:
    """Calls, and prints."""
    failed: list[str] = []
    logits: dict[int, set[str]] = defaultdict(set)
    ended = 0
    lock = threading.Lock()
    # Each call travels by itself: a request for several callers would hide who failed.
    with Client(address, timeout_s=_TIMEOUT_S, coalesce_sequences=1) as client:
        while not client.ready(model):
            pass
        asked = sequences(client.describe(model).manifest.input.features.size)

        def call(turn: int) -> None:
            nonlocal ended
            index = turn % len(asked)
            try:
                answer = client.classify([asked[index]], model=model)
            except SeqserveError as error:
                failed.append(repr(error))
            else:
                logits[index].add(answer.logits.astype("<f4").tobytes().hex())
            with lock:
                ended += 1
                if ended % _EVERY == 0:
                    print(ended, flush=True)  # noqa: T201

        begin = time.monotonic()
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(call, range(calls)))
        seconds = time.monotonic() - begin
    found = {index: sorted(each) for index, each in logits.items()}
    print(json.dumps({"failed": failed, "logits": found, "seconds": seconds}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

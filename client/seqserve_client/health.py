"""Whether a server answers calls, by grpc.health.v1: what probes of containers ask.

Apart from `Client`, for a probe is a process of its own every few seconds, and needs no numpy.
"""

from __future__ import annotations

import time

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from seqserve_client.channel import Target, open_channel
from seqserve_client.errors import DeadlineExceeded, ModelNotFound, Unavailable
from seqserve_client.options import Options
from seqserve_client.status import not_serving, typed_errors

_AGAIN_S = 0.2
"""Between two questions."""


def check(options: Options, model: str = "", *, wait_s: float = 0.0) -> None:
    """Comes back once a server, or one of its models, answers calls.

    Args:
        options: Where it is and how to get there; its timeout is that of a question.
        model: The model's name, or `name/version`; the server as a whole without.
        wait_s: Seconds to ask again for, where the answer may change.

    Raises:
        SeqserveError: see `seqserve_client.errors`; `ModelNotFound` where the model is not
            known, `Unavailable` where it is not ready or nobody answers.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            _ask(options, model)
        except (DeadlineExceeded, ModelNotFound, Unavailable):
            if time.monotonic() + _AGAIN_S >= end:
                raise
        else:
            return
        time.sleep(_AGAIN_S)


def _ask(options: Options, model: str) -> None:
    # A new channel each time: one that could not connect puts off its next attempt.
    with open_channel(Target.parse(options.address), options, to_any=True) as channel:
        try:
            with typed_errors(options.address):
                answer = HealthStub(channel).Check(
                    HealthCheckRequest(service=model),
                    timeout=options.timeout_s,
                    metadata=options.call_metadata(),
                )
        except ModelNotFound:
            raise ModelNotFound(
                f"{options.address} knows no model {model}; `seqserve models` lists those it knows"
            ) from None
    if answer.status == HealthCheckResponse.SERVING:
        return
    if model:
        raise Unavailable(
            f"{options.address} does not serve {model} now; `seqserve models versions` says why"
        )
    raise not_serving(options.address)

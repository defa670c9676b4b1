"""`python -m benchmarks.echo_server`: what a call costs where nothing is computed.

It decodes the same requests and sends answers of the same size as the real server. It prints what
`seqserve serve` prints.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from functools import cache

import numpy as np

from benchmarks.calls import CLASSIFY
from seqserve import ragged
from seqserve.v1 import classifier_pb2 as pb
from seqserve.v1 import classifier_pb2_grpc, sequences_pb2
from seqserve_server import process
from seqserve_server.observability import logs
from seqserve_server.options import MAX_MESSAGE_BYTES, LogFormat, LogLevel, Transport
from seqserve_server.scheduling.work import Leave
from seqserve_server.status import Context
from seqserve_server.transports import transport
from seqserve_server.transports.native_listener import Method, Tell

CLASSES = 9


class Echo(classifier_pb2_grpc.SequenceClassifierServicer):
    """Answers at once, and always the same; for grpcio."""

    async def Classify(  # noqa: N802
        self, request: pb.ClassifyRequest, context: Context
    ) -> pb.ClassifyResponse:
        """As many answers as there are sequences."""
        return _response(len(request.sequences.lengths))

    async def Advance(  # noqa: N802
        self, request: pb.AdvanceRequest, context: Context
    ) -> pb.AdvanceResponse:
        """Is not measured."""
        raise NotImplementedError


def echo(request: pb.ClassifyRequest, _size: int, _deadline: float, tell: Tell) -> Leave:
    """The same for the native transport, on the thread that takes the calls."""
    tell(_response(len(request.sequences.lengths)))
    return lambda: None


@cache
def _response(sequences: int) -> pb.ClassifyResponse:
    """Made once a size; sending it serialises it each time."""
    matrix = ragged.encode_matrix(np.full((sequences, CLASSES), 0.1, np.float32))
    classes = [f"class {index}" for index in range(CLASSES)]
    return pb.ClassifyResponse(
        model_name="lstm-64x2",
        model_version=1,
        model_digest="0" * 64,
        answers=sequences_pb2.Answers(
            labels=classes[:1] * sequences, classes=classes, probabilities=matrix, logits=matrix
        ),
    )


def main() -> None:
    """Answers until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", type=Transport, default=Transport.NATIVE)
    options = parser.parse_args()
    logs.to_stderr(LogLevel.INFO, LogFormat.CONSOLE)
    asyncio.run(_serve(options.transport))


async def _serve(chosen: Transport) -> None:
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    server = transport.grpcio(MAX_MESSAGE_BYTES)
    listener: transport.Listener = server
    if chosen is Transport.NATIVE:
        methods = [Method(CLASSIFY, pb.ClassifyRequest.FromString, echo)]
        listener = transport.native(methods, server, MAX_MESSAGE_BYTES)
    else:
        classifier_pb2_grpc.add_SequenceClassifierServicer_to_server(Echo(), server)
    port = transport.bind(listener, "127.0.0.1:0")
    await listener.start()
    process.spare_the_collector()
    logging.info("listening on 127.0.0.1:%d (%s transport)", port, chosen)
    logging.info("echo ready in 0 s")
    await terminated.wait()
    await listener.stop(1.0)


if __name__ == "__main__":
    main()

"""Mutated HTTP/2 frames at a real server, each input on a connection of its own.

An input begins as what a client sends for one good call, or for one of each method; then frames are
dropped, doubled, moved, invented, and given other types, flags, streams, lengths and contents, and
bytes of the whole are changed. The server may answer as it likes and close the connection, but no
call that reaches a handler may end with UNKNOWN or INTERNAL; it lives on, answers others with the
same bits as before, and holds no more memory at the end.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import grpc
import hpack
import numpy as np

from benchmarks.http2 import header_block, prefixed
from benchmarks.models import publish_random
from benchmarks.server_process import TRANSPORTS, Server
from seqserve.ragged import RaggedBatch, encode
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve_client import Client
from seqserve_export.network import NetworkConfig
from tests.campaigns import counted, harness
from tests.campaigns.harness import Claims

MODEL = "gru"
NETWORK = NetworkConfig(features=3, classes=4, hidden_size=8, cell="gru")
INPUTS = 100_000
"""For each transport."""
_QUICKER = 50
CONNECTIONS = 64
"""At a time."""
WARM = 2_000
"""Inputs before memory counts: pools fill."""
GROWTH_MIB = 48
SILENCE_S = 0.3
"""After which a connection that the server keeps open is left; it has read all there is."""
_CHECKED_EVERY = 2_000
_READ_BYTES = 1 << 16

_FAREWELL = struct.pack(">HBBBIII", 0, 8, 7, 0, 0, 0, 0)
"""A frame that asks the server to close the connection once its calls are over: GOAWAY."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 7, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
_HEADER = struct.Struct(">HBBBI")
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_TELLING = ("UNKNOWN", "INTERNAL")
"""Codes whose message is told as well."""
_WORDS = 40
"""Characters of it."""
_BY_PROTOCOL = (
    # A message left out or cut off, or compressed without saying how.
    "INTERNAL: Missing request message",
    "INTERNAL: Unexpected EOF decoding stream",
    "INTERNAL: protocol error",
    # Frames and header fields that cannot be.
    "INTERNAL: Failed parsing HTTP/2",
    "INTERNAL: Illegal header",
    "INTERNAL: Error parsing '",
    "INTERNAL: Metadata keys cannot be zero length",
    # A path that is not UTF-8.
    "UNKNOWN: Unexpected <class 'UnicodeDecodeError'>",
)
"""What the transports say by themselves of what breaks HTTP/2 or gRPC's framing, for most of which
gRPC prescribes INTERNAL; no handler hears of the call."""

_METHODS = (
    "/seqserve.v1.SequenceClassifier/Classify",
    "/seqserve.v1.SequenceClassifier/Advance",
    "/seqserve.v1.ModelCatalog/ListModels",
    "/seqserve.v1.ModelCatalog/DescribeModel",
    "/seqserve.v1.ModelRepository/LoadModel",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/seqserve.v1.SequenceClassifier/Nothing",
)


@dataclass
class Frame:
    """One frame, which may say of itself what is not true."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    length: int | None = None
    """What its header says; None for the truth."""

    def bytes(self) -> bytes:
        """As it is sent."""
        length = len(self.payload) if self.length is None else self.length
        head = _HEADER.pack(length >> 8 & 0xFFFF, length & 0xFF, self.kind, self.flags, self.stream)
        return head + self.payload


@dataclass
class Outcomes:
    """What became of the inputs."""

    ended: Counter[str] = field(default_factory=Counter)
    """Connections, by how they ended."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Calls, by the status' code, UNKNOWN and INTERNAL by the message as well; without one, by
    HTTP's."""
    bad: list[str] = field(default_factory=list)
    """Inputs, in hexadecimal, that made a call end with UNKNOWN or INTERNAL."""


class Inputs:
    """Makes inputs, each by its number alone.

    Args:
        address: The server's, for the headers.
        seed: Of all of them.
    """

    def __init__(self, address: str, seed: int) -> None:
        self._seed = seed
        batch = encode(RaggedBatch.from_sequences([np.ones((4, 3), np.float32)] * 2))
        bodies = {
            _METHODS[0]: ClassifyRequest(model_name=MODEL, sequences=batch).SerializeToString(),
            _METHODS[1]: AdvanceRequest(model_name=MODEL, steps=batch).SerializeToString(),
            _METHODS[3]: ClassifyRequest(model_name=MODEL).SerializeToString(),
        }
        self._calls = [
            (header_block(address, method, [("grpc-timeout", "200m")]), bodies.get(method, b""))
            for method in _METHODS
        ]

    def __getitem__(self, number: int) -> bytes:
        """An input."""
        random = Random(self._seed << 32 | number)
        frames = [Frame(_SETTINGS, 0, 0, b"")]
        for stream in range(1, 2 * random.choice((1, 1, 2, 4)), 2):
            headers, body = self._calls[0 if random.random() < 0.5 else random.randrange(8)]
            if random.random() < 0.3:
                body = _altered(random, body)
            content = prefixed(body)
            frames.append(Frame(_HEADERS, _END_HEADERS, stream, headers))
            cut = random.randrange(len(content)) if random.random() < 0.3 else len(content)
            frames.append(
                Frame(_DATA, 0 if cut < len(content) else _END_STREAM, stream, content[:cut])
            )
            if cut < len(content):
                frames.append(Frame(_DATA, _END_STREAM, stream, content[cut:]))
        for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
            _mutate(random, frames)
        data = _PREFACE + b"".join(frame.bytes() for frame in frames)
        return _altered(random, data) if random.random() < 0.3 else data


def _mutate(random: Random, frames: list[Frame]) -> None:
    """Changes the frames in one way."""
    place = random.randrange(len(frames)) if frames else 0
    if not frames or random.random() < 0.2:
        frames.insert(place, _invented(random))
        return
    frame = frames[place]
    match random.randrange(9):
        case 0:
            del frames[place]
        case 1:
            frames.insert(place, Frame(frame.kind, frame.flags, frame.stream, frame.payload))
        case 2:
            frames.insert(random.randrange(len(frames)), frames.pop(place))
        case 3:
            frame.kind = random.choice((*range(11), 255))
        case 4:
            frame.flags ^= 1 << random.randrange(8)
        case 5:
            frame.stream = random.choice((0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1))
        case 6:
            frame.length = random.choice((0, 1, len(frame.payload) + 1, 16_385, 2**24 - 1))
        case _:
            frame.payload = _altered(random, frame.payload)


def _invented(random: Random) -> Frame:
    """Any frame, some of them well-formed."""
    stream = random.choice((0, 1, 3, 2**31 - 1))
    number = struct.pack(">I", random.choice((0, 1, 2**31 - 1, 2**32 - 1, random.getrandbits(32))))
    setting = struct.pack(">H", random.randrange(9)) + number
    payload = random.choice(
        (b"", number, setting, 2 * number, random.randbytes(random.randrange(64)))
    )
    return Frame(random.randrange(11), random.getrandbits(8), stream, payload)


def _altered(random: Random, data: bytes) -> bytes:
    """A few bytes changed, taken out, put in or repeated."""
    altered = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(altered) + 1)
        size = random.choice((1, 1, 2, 4, 16))
        match random.randrange(4):
            case 0 if place < len(altered):
                altered[place] ^= 1 << random.randrange(8)
            case 1:
                del altered[place : place + size]
            case 2:
                altered[place:place] = random.randbytes(size)
            case _:
                altered[place:place] = altered[place : place + size]
    return bytes(altered)


async def send(host: str, port: int, data: bytes, outcomes: Outcomes) -> None:
    """Sends one input and reads what comes until the server closes or is silent."""
    reader, writer = await asyncio.open_connection(host, port)
    answer = bytearray()
    try:
        writer.write(data + _FAREWELL)
        while piece := await asyncio.wait_for(reader.read(_READ_BYTES), SILENCE_S):
            answer += piece
        ended = "closed"
    except TimeoutError:
        ended = "left open"
    except ConnectionError:
        ended = "reset"
    finally:
        writer.transport.abort()
    outcomes.ended[ended] += 1
    for status in _statuses(bytes(answer)):
        outcomes.statuses[status] += 1
        if _is_bad(status):
            outcomes.bad.append(data.hex())


def _is_bad(status: str) -> bool:
    return status.startswith(_TELLING) and not status.startswith(_BY_PROTOCOL)


def _statuses(answer: bytes) -> Iterator[str]:
    """How the calls on a connection ended, as far as the server says."""
    decoder, at = hpack.Decoder(), 0
    while at + _HEADER.size <= len(answer):
        high, low, kind, flags, _ = _HEADER.unpack_from(answer, at)
        begin = at + _HEADER.size
        at = begin + (high << 8 | low)
        if kind != _HEADERS or at > len(answer):
            continue
        payload = answer[begin:at]
        if flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if flags & _PRIORITY:
            payload = payload[5:]
        # As bytes: a transport may repeat what it was sent.
        fields = {
            bytes(name).decode(): bytes(value).decode(errors="replace")
            for name, value in decoder.decode(payload, raw=True)
        }
        if "grpc-status" in fields:
            code = _CODES.get(fields["grpc-status"], "no code")
            yield _told(f"{code}: {unquote(fields.get('grpc-message', ''))}", code)
        elif flags & _END_STREAM:
            yield f"HTTP {fields.get(':status')}"


def _told(status: str, code: str) -> str:
    if code not in _TELLING:
        return code
    return next(filter(status.startswith, _BY_PROTOCOL), status[: _WORDS + len(code)])


async def throw(address: str, inputs: Inputs, numbers: range, outcomes: Outcomes) -> None:
    """Sends inputs, many at a time."""
    host, _, port = address.rpartition(":")
    waiting = iter(numbers)

    async def one_after_the_other() -> None:
        for number in waiting:
            await send(host, int(port), inputs[number], outcomes)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONNECTIONS)))


def campaign(transport: str, repository: Path, count: int, seed: int, claims: Claims) -> object:
    """All inputs at one server."""
    sequence = np.linspace(-3, 3, 60, dtype=np.float32).reshape(20, 3)
    outcomes = Outcomes()
    with Server(repository, transport, core=None) as server, Client(server.address) as client:
        inputs = Inputs(server.address, seed)
        expected = client.classify([sequence], model=MODEL).logits.tobytes()
        wrong, before, began = 0, 0.0, time.perf_counter()
        for first in range(0, count, _CHECKED_EVERY):
            numbers = range(first, min(first + _CHECKED_EVERY, count))
            asyncio.run(throw(server.address, inputs, numbers, outcomes))
            wrong += client.classify([sequence], model=MODEL).logits.tobytes() != expected
            if numbers.stop >= min(WARM, count // 2) and not before:
                before = server.resident_mib()
        seconds = time.perf_counter() - began
        grown, descriptors = server.resident_mib() - before, server.descriptors()
        ends = counted.calls(server)
        unforeseen = [line for line in server.printed if "unforeseen" in line or "panick" in line]
    rate = count / seconds
    print(
        f"{transport}: {count:,} inputs in {seconds:.0f} s ({rate:,.0f}/s), "
        f"connections {dict(outcomes.ended)}, calls {dict(outcomes.statuses.most_common())}",
        flush=True,
    )
    for data in outcomes.bad[:10]:
        print(f"UNKNOWN or INTERNAL after {data}", file=sys.stderr)
    bad = sum(count for status, count in outcomes.statuses.items() if _is_bad(status))
    claims.hold(
        transport,
        f"{count:,} inputs",
        f"{outcomes.ended.total():,}",
        outcomes.ended.total() == count,
    )
    claims.hold(transport, "0 calls that reach a handler end UNKNOWN or INTERNAL", bad, not bad)
    strange = {code: ends[code] for code in _TELLING if ends[code]}
    claims.hold(transport, "by the server's own count as well", strange or 0, not strange)
    claims.hold(transport, "0 unforeseen errors in the log", len(unforeseen), not unforeseen)
    claims.hold(transport, "others get the same bits", f"{wrong} other", not wrong)
    claims.hold(
        transport,
        f"memory grows by less than {GROWTH_MIB} MiB",
        f"{grown:.0f} MiB",
        grown < GROWTH_MIB,
    )
    return {
        "inputs": count,
        "seconds": seconds,
        "grown_mib": grown,
        "descriptors": descriptors,
        "connections": dict(outcomes.ended),
        "calls": dict(outcomes.statuses),
        "counted": dict(ends),
    }


def main() -> None:
    """Both transports in turn."""
    parser = harness.parser(__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="for each transport")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    count = given.inputs // (_QUICKER if given.quick else 1)
    claims = Claims()
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        publish_random(repository, MODEL, NETWORK)
        figures = {
            transport: campaign(transport, repository, count, given.seed, claims)
            for transport in ([given.transport] if given.transport else TRANSPORTS)
        }
    harness.finish("frames", "Mutated frames", claims, figures)


if __name__ == "__main__":
    main()

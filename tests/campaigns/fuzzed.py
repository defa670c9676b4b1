"""What reads bytes of strangers, as atheris calls it: one target a process, under libFuzzer.

Needs atheris, which has an environment of its own (`make fuzz`):

    .venv-fuzz/bin/python -m tests.campaigns.fuzzed request OUTCOMES CORPUS -runs=1000000

Whatever a target raises that its callers do not expect ends the process, as a crash does.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import atheris

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
with atheris.instrument_imports(include=["seqserve", "seqserve_server"]):
    from seqserve import artifact, ragged
    from seqserve.errors import InvalidArtifact, InvalidRagged
    from seqserve.v1.classifier_pb2 import (
        ON_INVALID_ANSWER_REST,
        SERVICE_CLASS_BULK,
        ClassifyRequest,
    )
    from seqserve.v1.sequences_pb2 import RaggedBatch
    from seqserve_server import validation
    from seqserve_server.errors import ServerError
    from seqserve_server.security.tokens import InvalidToken, Token, TokenSealer
    from seqserve_server.servicers import wire
    from seqserve_server.status import status

from google.protobuf.message import DecodeError

from tests.campaigns.mutation import MessageMutator

FEATURES = 3
MODEL: Any = SimpleNamespace(
    features=FEATURES, max_steps=64, admits_non_finite=False, labels=("a", "b", "c", "d")
)
LIMITS = validation.RequestLimits(max_sequences=256, max_steps=4096, max_bytes=1 << 20)
SEALER = TokenSealer(bytes(32), 60.0, now=lambda: 0.0)
_TOLD_EVERY = 4096

Target = Callable[[bytes], str]


def decoder(data: bytes) -> str:
    """A ragged batch: every batch that comes of it is sound."""
    try:
        batch = ragged.decode(RaggedBatch.FromString(data), FEATURES)
    except (DecodeError, InvalidRagged) as error:
        return type(error).__name__
    assert batch.lengths.sum() == len(batch.values)
    assert len(b"".join(sequence.tobytes() for sequence in batch)) == batch.values.nbytes
    return "decoded"


def request(data: bytes) -> str:
    """A whole request, up to where its work would be queued."""
    try:
        message = ClassifyRequest.FromString(data)
        validation.check_size(len(data), LIMITS, "sequences")
        if not artifact.is_model_name(message.model_name):
            validation.check_model_name(message.model_name)
        wire.service_class(message.service_class)
        batch = wire.decode(message.sequences, MODEL, LIMITS, "sequences")
        validation.check_steps(batch.steps, LIMITS, "sequences")
        validation.check_top_k(message.top_k, MODEL)
        invalid = validation.invalid_sequences(batch, MODEL, "sequences")
        if invalid and not wire.answers_rest(message.on_invalid):
            raise validation.refusal(invalid)
    except DecodeError as error:
        return type(error).__name__
    except ServerError as error:
        told = status(error, "fuzzed")
        assert sum(len(value) for _, value in told.trailing_metadata) < 6000
        return told.code.name
    assert {each.index for each in invalid} <= set(range(len(batch)))
    return "answers the rest" if invalid else "valid"


def token(data: bytes) -> str:
    """A token: none opens that was not sealed."""
    try:
        opened = SEALER.open(data)
    except InvalidToken:
        return "InvalidToken"
    assert data in seeds("token"), opened
    return "opened"


class Manifest:
    """A manifest, as it lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "model" / "1"
        self._folder.mkdir(parents=True)

    def __call__(self, data: bytes) -> str:
        """Reads it."""
        (self._folder / artifact.MANIFEST_FILE).write_bytes(data)
        try:
            artifact.read_manifest(self._folder)
        except InvalidArtifact as error:
            return type(error).__name__
        return "read"


def seeds(name: str) -> list[bytes]:
    """What is good, to begin with."""
    batch = RaggedBatch(values=bytes(4 * FEATURES * 3), lengths=[1, 2])
    if name == "decoder":
        return [batch.SerializeToString()]
    if name == "request":
        whole = ClassifyRequest(model_name="gru", sequences=batch, top_k=2)
        batch = RaggedBatch(values=b"\x00\x00\xc0\x7f" * FEATURES * 3, lengths=[1, 0, 2])
        rest = ClassifyRequest(
            model_name="gru",
            sequences=batch,
            service_class=SERVICE_CLASS_BULK,
            on_invalid=ON_INVALID_ANSWER_REST,
        )
        return [whole.SerializeToString(), rest.SerializeToString()]
    if name == "token":
        return [SEALER.seal(Token("ab" * 32, 3, 17, bytes(64)))]
    return [
        b'{"format_version":1,"name":"model","version":"1","input":{"features":{"size":3}},'
        b'"labels":["a","b"],"graph":{"minimum_rows":1,"state":[{"name":"h","dims":["1","-1","8"]}'
        b']},"limits":{"max_steps":"64"},"parity":{"tolerance":1e-5}}'
    ]


MESSAGES = {"decoder": RaggedBatch, "request": ClassifyRequest}
"""Targets whose inputs are messages, which are mutated by field."""


def mutate_bytes(data: bytes, max_size: int) -> bytes:
    """As libFuzzer does, whose own takes the place of `atheris.Mutate` only once it fuzzes."""
    changed: bytes = atheris.Mutate(data, max_size)
    return changed


def main() -> None:
    """Fuzzes the target that is named; all other arguments are libFuzzer's."""
    name, told, corpus, *options = sys.argv[1:]
    for number, seed in enumerate(seeds(name)):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    outcomes: Counter[str] = Counter()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        targets: dict[str, Target] = {"decoder": decoder, "request": request, "token": token}
        target = targets.get(name) or Manifest(Path(folder))

        def once(data: bytes) -> None:
            outcomes[target(data)] += 1
            if outcomes.total() % _TOLD_EVERY == 0:
                Path(told).write_text(json.dumps(outcomes))

        by_field = {}
        if name in MESSAGES:
            by_field["custom_mutator"] = MessageMutator(MESSAGES[name], FEATURES, mutate_bytes)
        atheris.Setup([sys.argv[0], *options, corpus], once, **by_field)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

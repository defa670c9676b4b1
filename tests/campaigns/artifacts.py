"""Damaged artifacts by the thousand: refused, or serving the same bits, and nothing dies of them.

Every one is a sound artifact with bytes flipped, cut off, put in or taken out, or with fields of
its manifest, graph and golden set edited; half of them have a manifest that vouches for the damage,
so that it gets as far as onnxruntime, and is another artifact as good as its golden set: the last
bit of a weight may differ. They are tried as a server tries them, by a process that may
crash; what that lets pass is opened here and asked.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.models import publish_random
from seqserve import artifact
from seqserve.errors import InvalidArtifact
from seqserve_export.network import NetworkConfig
from seqserve_server.models import loading
from seqserve_server.models.proving import Limits, Prover
from seqserve_server.models.sessions import opener
from seqserve_server.options import ExecutionProvider
from tests.campaigns import harness
from tests.campaigns.harness import Claims

NAME = "small"
NETWORK = NetworkConfig(features=3, classes=4, cell="gru", hidden_size=4)
EXAMPLES = 5_000
MOST_GROWTH_MIB = 200
"""Of this process, which reads them all."""
LIMITS = Limits(cpu_s=10, memory_bytes=2 << 30)
FILES = (artifact.MANIFEST_FILE, artifact.MODEL_FILE, artifact.GOLDEN_FILE)
ODD = (-1, 0, 1, 2, 3, 127, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 62) - 1, -(1 << 62))

Damage = tuple[str, str, int, int]
"""What is done to which file, where, and a number that says with what."""


@dataclass(frozen=True)
class Sound:
    """The artifact before the damage."""

    files: dict[str, bytes]
    logits: bytes
    """What it answers to the golden set's sequences."""


def damages() -> st.SearchStrategy[list[Damage]]:
    """A few, one after the other."""
    place, number = st.integers(0, 1 << 16), st.integers(0, 1 << 16)
    one = st.tuples(st.sampled_from(KINDS), st.sampled_from(FILES), place, number)
    return st.lists(one, min_size=1, max_size=4)


def damaged(content: bytes, damage: Damage) -> bytes:
    """The file's content after it."""
    kind, file, place, number = damage
    if kind == "edit":
        return _EDITS[file](content, place, number)
    spot = place % max(1, len(content))
    if kind == "flip":
        return content[:spot] + bytes([content[spot] ^ (1 << number % 8)]) + content[spot + 1 :]
    if kind == "set":
        return content[:spot] + bytes([(0, 127, 128, 255)[number % 4]]) + content[spot + 1 :]
    if kind == "cut":
        return content[:spot]
    if kind == "take out":
        return content[:spot] + content[spot + 1 + number % 64 :]
    return content[:spot] + content[number % max(1, len(content)) :][:64] + content[spot:]


KINDS = ("flip", "set", "cut", "take out", "put in", "edit", "edit", "edit")


def _edit_manifest(content: bytes, place: int, number: int) -> bytes:
    """Another value for one of its fields, however deep."""
    document = json.loads(content)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:  # noqa: ANN401 - JSON is anything
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            spots.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(document)
    node, key = spots[place % len(spots)]
    values: list[Any] = [*ODD, "", "x" * 100, [], {}, None, 1e300, "NaN", True, "../../etc/passwd"]
    node[key] = values[number % len(values)]
    text = json.dumps(document)
    if number % 50 == 0:  # nesting beyond any stack
        text = text[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    return text.encode()


def _edit_model(content: bytes, place: int, number: int) -> bytes:
    """Another operator, input, attribute, shape or type somewhere."""
    model = onnx.load_model_from_string(content)
    graph = model.graph
    node = graph.node[place % len(graph.node)]
    names = ["", *(name for each in graph.node for name in each.output)]
    operators = ("Max", "Loop", "Expand", "Reshape", "Gather", "LSTM", "LayerNormalization", "Mean")
    tensor = graph.initializer[place % len(graph.initializer)] if graph.initializer else None
    match number % 7:
        case 0 if node.input:
            node.input[number % len(node.input)] = names[place % len(names)]
        case 1:
            node.op_type = operators[place % len(operators)]
        case 2 if node.attribute:
            node.attribute[place % len(node.attribute)].i = ODD[number % len(ODD)]
        case 3 if tensor is not None and tensor.dims:
            tensor.dims[0] = ODD[number % len(ODD)]
        case 4 if tensor is not None:
            tensor.data_type = place % 24
        case 5:
            del graph.node[place % len(graph.node)]
        case _:
            node.input.append("")
    return model.SerializeToString()


def _edit_golden(content: bytes, place: int, number: int) -> bytes:
    """Another array, or a header that claims what is not there."""
    with np.load(BytesIO(content)) as loaded:
        arrays: dict[str, Any] = dict(loaded)
    name = sorted(arrays)[place % len(arrays)]
    array = arrays[name]
    packed = BytesIO()
    if number % 3 == 0 and array.dtype.kind in "if":
        arrays[name] = np.full_like(array, ODD[number % len(ODD)] % 127)
    elif number % 3 == 1:
        arrays[name] = array[: number % (len(array) + 1)]
    else:  # a claim of many gigabytes in a few bytes
        np.savez_compressed(packed, **arrays)
        claimed = BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (1 << (20 + number % 42),)}
        np.lib.format.write_array_header_1_0(claimed, header)
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr(f"{name}.npy", claimed.getvalue())
        return packed.getvalue()
    np.savez_compressed(packed, **arrays)
    return packed.getvalue()


_EDITS = dict(zip(FILES, (_edit_manifest, _edit_model, _edit_golden), strict=True))


def make_sound(repository: Path) -> Sound:
    """Publishes the artifact, and asks it."""
    publish_random(repository, NAME, NETWORK)
    folder = repository / NAME / "1"
    return Sound({path.name: path.read_bytes() for path in folder.iterdir()}, _logits(folder))


def _logits(folder: Path) -> bytes:
    model, _ = loading.load(folder, opener(ExecutionProvider.CPU))
    # Not those of the folder's golden set, which may be damaged: of sequences that never change.
    values = np.random.default_rng(0).standard_normal((8, 12, NETWORK.features), np.float32)
    return model.graph(values, np.arange(5, 13, dtype=np.int32)).logits.tobytes()


def write(sound: Sound, folder: Path, done: list[Damage], *, vouched: bool) -> None:
    """Puts the damaged artifact into `folder`."""
    files = dict(sound.files)
    for damage in done:
        try:
            files[damage[1]] = damaged(files[damage[1]], damage)
        except Exception:
            continue
    if vouched:
        files[artifact.MANIFEST_FILE] = _vouching(files)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _vouching(files: dict[str, bytes]) -> bytes:
    try:
        document = json.loads(files[artifact.MANIFEST_FILE])
        for file in document["files"]:
            content = files[file["path"]]
            file["bytes"], file["sha256"] = str(len(content)), artifact.digest_of(content)
        return json.dumps(document).encode()
    except Exception:
        return files[artifact.MANIFEST_FILE]


def attempt(prover: Prover, sound: Sound, folder: Path, *, vouched: bool) -> str:
    """What became of the artifact in `folder`: how it was refused, or what it answers.

    Raises:
        AssertionError: it was served with other answers, though its manifest is the sound one's.
        Exception: it was refused for a reason that nobody foresaw.
    """
    try:
        loading.load(folder, opener(ExecutionProvider.CPU), prover.attempt)
    except InvalidArtifact as refusal:
        return "crashed, refused" if "was ended by" in str(refusal) else "refused"
    same = _logits(folder) == sound.logits
    assert same or vouched, "it is served, with other answers"
    return "served, same bits" if same else "served, as its own golden set has it"


def campaign(examples: int) -> tuple[Counter[str], float]:
    """What became of so many, and by how much memory grew here, in MiB."""
    seen: Counter[str] = Counter()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", message="Duplicate name")  # of an array that lies twice
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        sound = make_sound(repository)
        prover = Prover(ExecutionProvider.CPU, limits=LIMITS)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(damages(), st.booleans())
        def run(done: list[Damage], vouched: bool) -> None:
            target = repository / NAME / "1"
            write(sound, target, done, vouched=vouched)
            seen[attempt(prover, sound, target, vouched=vouched)] += 1

        before = _peak_mib()
        try:
            run()
        finally:
            prover.close()
    return seen, _peak_mib() - before


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Tries them, prints what became of them, and writes results/artifacts.json."""
    parser = harness.parser(__doc__)
    parser.add_argument("--examples", type=int, default=0, help=f"{EXAMPLES} by default")
    options = parser.parse_args()
    examples = options.examples or (200 if options.quick else EXAMPLES)
    seen, grown_mib = campaign(examples)
    claims = Claims()
    total = sum(seen.values())
    claims.hold("all", f"tried, of {examples}", total, total >= examples)
    for outcome, count in sorted(seen.items()):
        claims.hold("all", outcome, count, holds=True)
    bound = f"memory grows ≤ {MOST_GROWTH_MIB} MiB"
    claims.hold("this process", bound, f"{grown_mib:.0f} MiB", grown_mib <= MOST_GROWTH_MIB)
    harness.finish("artifacts", "Damaged artifacts", claims, dict(seen))


if __name__ == "__main__":
    main()

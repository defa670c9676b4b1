"""Signatures of artifacts: what is trusted, and everything that is not."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from seqserve import artifact, signature
from seqserve.errors import InvalidArtifact, InvalidKey, InvalidSignature
from seqserve.signature import SIGNATURE_FILE, TrustedKeys
from seqserve.v1.manifest_pb2 import (
    ArtifactFile,
    FeatureInput,
    Graph,
    InputSpec,
    Limits,
    ModelManifest,
    Parity,
)

FILES = {artifact.MODEL_FILE: b"graph", artifact.GOLDEN_FILE: b"golden"}


def make(repository: Path, name: str, version: int) -> Path:
    """A sound artifact."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    for file, content in FILES.items():
        (folder / file).write_bytes(content)
    artifact.write_manifest(
        ModelManifest(
            format_version=1,
            name=name,
            version=version,
            input=InputSpec(features=FeatureInput(size=2)),
            labels=["walk", "run"],
            graph=Graph(opset=17, minimum_rows=1),
            limits=Limits(max_steps=100),
            parity=Parity(tolerance=1e-5),
            files=[
                ArtifactFile(
                    path=file, bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
                )
                for file, content in FILES.items()
            ],
        ),
        folder,
    )
    return folder


class Signer:
    """A key on disk, and trust in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.public = signature.new_key(path)

    def trusted(self, *others: Signer) -> TrustedKeys:
        publics = b"".join(each.public for each in (self, *others))
        return TrustedKeys.parse(publics, Path("trusted.pem"))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "signer.pem")


@pytest.fixture
def other(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "other.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "models", "walks", 3)


def check(trusted: TrustedKeys, folder: Path) -> None:
    trusted.check(artifact.manifest_bytes(folder), folder)


def test_a_signed_artifact_is_trusted_by_those_who_trust_the_key(
    signer: Signer, other: Signer, folder: Path
) -> None:
    signature.sign(folder, signer.path)

    check(signer.trusted(), folder)
    check(other.trusted(signer), folder)
    with pytest.raises(InvalidSignature, match="is not of a key that is trusted here"):
        check(other.trusted(), folder)


def test_several_may_sign_and_twice_is_once(signer: Signer, other: Signer, folder: Path) -> None:
    for each in (signer, other, signer):
        signature.sign(folder, each.path)

    check(signer.trusted(), folder)
    check(other.trusted(), folder)
    assert len((folder / SIGNATURE_FILE).read_bytes().splitlines()) == 2


def test_an_unsigned_artifact_is_refused_with_the_command_that_signs_it(
    signer: Signer, folder: Path
) -> None:
    with pytest.raises(InvalidSignature, match=f"is missing; sign it with: seqserve sign {folder}"):
        check(signer.trusted(), folder)


def test_any_change_of_the_manifest_breaks_the_signature(signer: Signer, folder: Path) -> None:
    signature.sign(folder, signer.path)
    content = artifact.manifest_bytes(folder)
    for index in range(0, len(content), 7):
        changed = bytearray(content)
        changed[index] ^= 1
        with pytest.raises(InvalidSignature):
            signer.trusted().check(bytes(changed), folder)


def test_a_signature_is_good_for_no_other_version(signer: Signer, folder: Path) -> None:
    signature.sign(folder, signer.path)
    newer = make(folder.parent.parent, "walks", 4)
    shutil.copy(folder / SIGNATURE_FILE, newer)

    with pytest.raises(InvalidSignature):
        check(signer.trusted(), newer)
    shutil.copy(folder / artifact.MANIFEST_FILE, newer)  # then it is signed, but says it is 3
    check(signer.trusted(), newer)
    with pytest.raises(InvalidArtifact, match="says it is walks version 3"):
        artifact.read_manifest(newer)


@given(content=st.binary(max_size=300))
def test_what_is_no_signature_is_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / SIGNATURE_FILE).write_bytes(content)
        key = Ed25519PrivateKey.generate().public_key()
        with pytest.raises(InvalidSignature):
            TrustedKeys([key]).check(b"manifest", folder)


def _too_long(path: Path) -> None:
    path.write_bytes(b"A" * (signature.MAX_BYTES + 1))


def _a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [_too_long, _a_link, _a_pipe])
def test_a_signature_is_a_short_plain_file(
    signer: Signer, folder: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(signature.sign(folder, signer.path))

    with pytest.raises(InvalidSignature):
        check(signer.trusted(), folder)


def test_a_damaged_artifact_is_not_signed(signer: Signer, folder: Path) -> None:
    (folder / artifact.MODEL_FILE).write_bytes(b"other")

    with pytest.raises(InvalidArtifact, match="differs from what was published"):
        signature.sign(folder, signer.path)
    assert not (folder / SIGNATURE_FILE).exists()


def test_a_signature_is_plain_ed25519_that_other_tools_can_check(
    signer: Signer, folder: Path, tmp_path: Path
) -> None:

    import base64

    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    [line] = signature.sign(folder, signer.path).read_bytes().splitlines()
    key = load_pem_public_key(signer.public)
    assert not isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(line), artifact.manifest_bytes(folder))  # type: ignore[union-attr,call-arg]


def test_nobody_else_may_read_a_private_key_and_none_is_overwritten(signer: Signer) -> None:
    content = signer.path.read_bytes()

    assert stat.S_IMODE(signer.path.stat().st_mode) == 0o600
    with pytest.raises(InvalidKey, match="File exists"):
        signature.new_key(signer.path)
    assert signer.path.read_bytes() == content


def _pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None) -> bytes:
    encryption = s.BestAvailableEncryption(password) if password else s.NoEncryption()
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, encryption)


def test_what_is_no_key_to_sign_with_is_refused_without_showing_it(
    folder: Path, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    bad = {
        "No such file": None,
        "no private key in PEM without a password": _pem(key, b"password"),
        "not an Ed25519 key": _pem(ec.generate_private_key(ec.SECP256R1()), None),
        "no private key in PEM": b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----",
    }
    for number, (words, content) in enumerate(bad.items()):
        path = tmp_path / f"{number}.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidKey, match=words) as raised:
            signature.sign(folder, path)
        assert "secret" not in str(raised.value)


def test_what_is_no_key_to_trust_is_refused() -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    for words, content in {
        "holds no public key": b"",
        "key 1 is not an Ed25519 key": other,
        "key 1 cannot be read": b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----",
    }.items():
        with pytest.raises(InvalidKey, match=words):
            TrustedKeys.parse(content, Path("trusted.pem"))


def test_the_commands_make_a_key_and_sign_with_it(folder: Path, tmp_path: Path) -> None:
    made = _seqserve("keygen", tmp_path / "key.pem")
    signed = _seqserve("sign", folder, "--key", tmp_path / "key.pem")
    again = _seqserve("keygen", tmp_path / "key.pem")

    assert signed.stdout == f"signed: {folder / SIGNATURE_FILE}\n"
    check(TrustedKeys.parse(made.stdout.encode(), Path("trusted.pem")), folder)
    assert again.returncode == 1
    assert again.stderr == f"seqserve keygen: {tmp_path / 'key.pem'}: File exists\n"


def _seqserve(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqserve_client", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)

"""`seqserve models load`, `unload`, `reload`, `versions` against a real server with tokens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from seqserve import artifact
from seqserve_server.security import access
from seqserve_server.security.access import Grant, Right
from tests.integration.conftest import serving

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

SEQSERVE = Path(sys.executable).with_name("seqserve")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", params=["native", "grpcio"])
def operated(
    request: pytest.FixtureRequest,
    repository: ModelRepository,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path, Path]]:
    """A server's address, its repository, and the folder of the tokens `operate`, `describe`."""
    models = repository(gru={"cell": "gru", "seed": 5}).resolve()
    folder = tmp_path_factory.mktemp("tokens")
    tokens = {right: access.new_token() for right in (Right.OPERATE, Right.DESCRIBE)}
    rights = {Right.OPERATE: {Right.OPERATE, Right.DESCRIBE}, Right.DESCRIBE: {Right.DESCRIBE}}
    for right, token in tokens.items():
        (folder / right).write_text(token)
    grants = [
        access.entry(Grant(right, access.sha256(token), frozenset(rights[right]), None))
        for right, token in tokens.items()
    ]
    (folder / "access.toml").write_text("\n".join(grants))
    options = ("--transport", request.param, "--access-file", str(folder / "access.toml"))
    with serving(models, *options) as address:
        yield address, models, folder


@pytest.fixture
def run(operated: tuple[str, Path, Path]) -> Run:
    """Runs `seqserve models …`, by default with the operator's token."""
    address, _, folder = operated

    def invoke(*words: str, token: str | None = "operate") -> tuple[int, str, str]:
        shown: list[str | Path] = ["--token-file", folder / token] if token else []
        done = subprocess.run(
            [SEQSERVE, "models", *words, "--server", address, *shown],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return invoke


def test_an_operator_takes_a_version_out_of_service_and_back(run: Run) -> None:
    code, out, err = run("unload", "gru")
    assert (code, err) == (0, "")
    assert "unloaded: was taken out of service" in out

    code, out, err = run("load", "gru:1")
    assert (code, err) == (0, "")
    assert "ready" in out
    assert "CPUExecutionProvider" in out

    code, out, err = run("versions", "gru", token="describe")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["gru", "1", "ready"]]


def test_a_new_version_that_is_damaged_is_refused_with_its_reason(
    run: Run, operated: tuple[str, Path, Path]
) -> None:
    _, models, _ = operated
    folder = models / "gru" / "2"
    folder.mkdir()
    manifest = artifact.read_manifest(models / "gru" / "1")
    manifest.version = 2
    artifact.write_manifest(manifest, folder)
    try:
        code, out, err = run("load", "gru:2")
        assert (code, out) == (1, "")
        assert err.startswith("seqserve models load: gru/2/")
        assert err.count("\n") == 1

        code, out, err = run("reload")
        assert (code, err) == (0, "")
        assert [line.split()[:3] for line in out.splitlines()[1:]] == [
            ["gru", "1", "ready"],
            ["gru", "2", "failed:"],
        ]
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        run("reload")


def test_an_unknown_version_is_told_with_those_there_are(run: Run) -> None:
    assert run("load", "gru:9") == (
        *(1, ""),
        "seqserve models load: the repository has no gru version 9; it has [1]\n",
    )


@pytest.mark.parametrize("words", [("load", "gru"), ("unload", "gru"), ("reload",)], ids=str)
def test_whoever_may_not_operate_is_refused_in_a_line(run: Run, words: tuple[str, ...]) -> None:
    for token in (None, "describe"):
        code, out, err = run(*words, token=token)
        assert (code, out) == (1, "")
        assert err.startswith(f"seqserve models {words[0]}: ")
        assert err.count("\n") == 1


def test_the_commands_go_by_mutual_tls(repository: ModelRepository, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("127.0.0.1", "ana@example.org"):
        issued = authority.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    options = (
        *("--tls-certificate", str(tmp_path / "127.0.0.1.pem")),
        *("--tls-key", str(tmp_path / "127.0.0.1.key")),
        *("--tls-client-ca", str(tmp_path / "ca.pem")),
    )
    trusting = ("--ca-file", tmp_path / "ca.pem")
    shown = (
        *("--certificate-file", tmp_path / "ana@example.org.pem"),
        *("--key-file", tmp_path / "ana@example.org.key"),
    )

    with serving(repository(gru={"cell": "gru"}), *options) as address:
        ends = [
            subprocess.run(
                [SEQSERVE, "models", "--server", address, "--timeout", "5", *words],
                capture_output=True,
                text=True,
                check=False,
            )
            for words in ((*trusting, *shown), trusting, ())
        ]

    assert [end.returncode for end in ends] == [0, 1, 1]
    assert "gru" in ends[0].stdout
    for refused in ends[1:]:
        assert refused.stderr.splitlines()[-1].startswith(f"seqserve models: {address} ")

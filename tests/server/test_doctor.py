"""`seqserve doctor`: what it finds on this host, and on hosts that fall short."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from seqserve import artifact, signature
from seqserve_server import doctor, memory
from seqserve_server.doctor import Outcome
from seqserve_server.models.loading import RUN_BYTES
from seqserve_server.options import ExecutionProvider, Transport
from seqserve_server.security import access
from seqserve_server.security.access import Grant, Right

TIMEOUT_S = 120.0
SEQSERVE = [sys.executable, "-m", "seqserve_client"]
ALL_FREE = ("--address", "127.0.0.1:0", "--metrics-address", "off")


def _examine(*words: str | Path, **environment: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """Exit code, findings by what was looked at, and what was printed."""
    done = subprocess.run(
        [*SEQSERVE, "doctor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=os.environ | environment,
        check=False,
    )
    if "--json" not in words:
        return done.returncode, {}, done.stdout
    document = json.loads(done.stdout)
    assert document["failed"] is (done.returncode == 1)
    return done.returncode, {each["check"]: each for each in document["checks"]}, done.stdout


@pytest.fixture(scope="module")
def sound(models: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and findings where nothing is wrong."""
    return _examine(models, *ALL_FREE, "--json")[:2]


def test_a_sound_host_and_repository_pass_every_check(
    sound: tuple[int, dict[str, dict[str, str]]],
) -> None:
    code, found = sound

    assert code == 0
    assert {each["outcome"] for each in found.values()} <= {"ok", "warning"}
    assert {"Python", "onnxruntime", "grpcio", "CPUExecutionProvider", "cores"} <= found.keys()
    assert {"memory", "transport", "telemetry", "vectors", "port 127.0.0.1:0"} <= found.keys()
    for model in ("gru", "lstm", "rnn", "both-ways"):
        assert found[f"{model} version 1"]["found"].startswith("sha256 holds; ")
        assert "the same bit for bit in any company" in found[f"{model} version 1"]["found"]


def test_people_read_a_line_a_check() -> None:
    code, _, printed = _examine(*ALL_FREE)

    assert code == 0
    lines = printed.splitlines()
    assert all(line.split()[0] in ("OK", "WARNING") for line in lines)
    assert lines[-1].startswith("WARNING  models: not looked at: bit-equality on this processor")
    assert lines[-1].endswith("; name a REPOSITORY")


def test_a_damaged_version_fails_and_the_others_are_looked_at(models: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("gru", "lstm"):
        shutil.copytree(models / name, repository / name)
    damaged = repository / "gru" / "1" / artifact.MODEL_FILE
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")

    code, found, _ = _examine(repository, *ALL_FREE, "--json")

    assert code == 1
    assert found["gru version 1"]["outcome"] == "failed"
    assert artifact.MODEL_FILE in found["gru version 1"]["found"]
    assert found["gru version 1"]["advice"] == "publish it again, or remove it"
    assert found["lstm version 1"]["outcome"] == "ok"


@pytest.mark.parametrize("shut", ["gru/1/manifest.json", "gru/1/model.onnx", "gru/1", "gru"])
def test_what_may_not_be_read_is_told_with_who_should_read_it(
    shut: str, models: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    shutil.copytree(models / "gru", repository / "gru")
    (repository / shut).chmod(0)

    # Root reads everything, unless that is taken from it.
    caps = "--bounding-set=-dac_override,-dac_read_search"
    as_user = () if os.geteuid() else ("setpriv", caps)
    done = subprocess.run(
        [*as_user, *SEQSERVE, "doctor", str(repository), *ALL_FREE, "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    (repository / shut).chmod(0o700)

    assert done.returncode == 1, done.stderr
    (found,) = (each for each in json.loads(done.stdout)["checks"] if each["outcome"] == "failed")
    assert "ermission denied" in found["found"]
    who = f"let the user who serves (here uid {os.getuid()})"
    assert found["advice"] == f"{who} read {repository / shut}"


def test_a_golden_set_that_does_not_hold_here_fails(models: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(models / "gru", repository / "gru")
    folder = repository / "gru" / "1"
    manifest = artifact.read_manifest(folder)
    manifest.parity.tolerance = 1e-12
    artifact.write_manifest(manifest, folder)

    code, found, _ = _examine(repository, *ALL_FREE, "--json")

    assert code == 1
    assert "differs from torch by" in found["gru version 1"]["found"]


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_a_repository_without_models_fails(tmp_path: Path, exists: bool) -> None:
    repository = tmp_path if exists else tmp_path / "none"

    code, found, _ = _examine(repository, *ALL_FREE, "--json")

    assert code == 1
    assert found["models"]["outcome"] == "failed"
    assert ("has none" if exists else "No such file") in found["models"]["found"]


def test_a_taken_port_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, found, _ = _examine(
            "--address", "127.0.0.1:0", "--metrics-address", address, "--json"
        )

    assert code == 1
    assert found[f"port {address}"]["found"] == "Address already in use"
    assert found["port 127.0.0.1:0"]["outcome"] == "ok"


def test_settings_that_a_server_refuses_fail() -> None:
    exposed = ("--address", "0.0.0.0:0", "--metrics-address", "off", "--json")

    code, found, _ = _examine(*exposed)
    _, insecure, _ = _examine(*exposed, "--insecure")

    assert code == 1
    assert found["settings"]["outcome"] == "failed"
    assert "--address 0.0.0.0:0 is beyond loopback" in found["settings"]["found"]
    assert insecure["settings"]["outcome"] == "ok"


def test_the_transport_is_the_one_that_a_server_would_take(
    sound: tuple[int, dict[str, dict[str, str]]],
) -> None:
    asked = {
        "tls": ("--tls-certificate", "none", "--tls-key", "none"),
        "age": ("--max-connection-age", "60"),
    }

    found = {
        name: _examine(*ALL_FREE, "--json", *words)[1]["transport"] for name, words in asked.items()
    } | {"nothing": sound[1]["transport"]}

    assert {name: each["found"].partition(",")[0] for name, each in found.items()} == {
        "tls": "grpcio",
        "age": "grpcio",
        "nothing": "native",
    }
    assert {each["outcome"] for each in found.values()} == {"ok"}


@pytest.mark.skipif(sys.platform != "linux", reason="one process alone")
def test_the_metrics_port_of_each_process_is_looked_at() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found, _ = _examine(
            *("--address", "127.0.0.1:0", "--processes", "2", "--json"),
            *("--metrics-address", f"127.0.0.1:{port - 1}"),
        )

    assert code == 1
    assert found[f"port 127.0.0.1:{port}"]["found"] == "Address already in use"


def test_files_that_say_who_is_trusted_are_tried(models: Path, tmp_path: Path) -> None:
    for name in ("access", "keys", "certificate", "key"):
        (tmp_path / name).write_text("what = 'nothing'\n")
    grant = Grant("ana", access.sha256(access.new_token()), frozenset({Right.OPERATE}), None)
    (tmp_path / "good").write_text(access.entry(grant))

    code, found, _ = _examine(
        *(models, *ALL_FREE, "--json"),
        *("--access-file", tmp_path / "access", "--trusted-keys", tmp_path / "keys"),
        *("--tls-certificate", tmp_path / "certificate", "--tls-key", tmp_path / "key"),
    )
    _, others, _ = _examine(*ALL_FREE, "--json", "--access-file", tmp_path / "good")

    assert code == 1
    for name, option in {
        str(tmp_path / "access"): "--access-file",
        str(tmp_path / "keys"): "--trusted-keys",
        "TLS": "--tls-certificate",
    }.items():
        finding = found[name]
        assert finding["outcome"] == "failed"
        assert finding["found"].startswith(f"{option} ")
    assert others[str(tmp_path / "good")]["outcome"] == "ok"


def test_a_version_that_nobody_trusted_has_signed_fails(models: Path, tmp_path: Path) -> None:
    (tmp_path / "trusted.pem").write_bytes(signature.new_key(tmp_path / "signing.pem"))

    code, found, _ = _examine(
        *(models, *ALL_FREE, "--json", "--trusted-keys", tmp_path / "trusted.pem")
    )

    assert code == 1
    assert found[str(tmp_path / "trusted.pem")]["outcome"] == "ok"
    assert found["gru version 1"]["outcome"] == "failed"
    assert "sign" in found["gru version 1"]["found"]


def test_telemetry_that_is_on_fails() -> None:
    code, found, _ = _examine(*ALL_FREE, "--json", ORT_DISABLE_TELEMETRY="0")

    assert code == 1
    assert found["telemetry"]["outcome"] == "failed"
    assert found["telemetry"]["advice"] == "set it to 1, or leave it unset"


def test_a_provider_that_is_not_there_fails_with_what_brings_it() -> None:
    found = list(doctor.providers(ExecutionProvider.CUDA))

    assert [each.outcome for each in found] == [Outcome.OK, Outcome.FAILED]
    assert "pip install onnxruntime-gpu" in found[-1].advice


def test_a_host_without_the_native_transport_is_told_what_it_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor.native_transport(Transport.AUTO).outcome is Outcome.OK
    monkeypatch.setattr("seqserve_server.transports.transport.find_spec", lambda _: None)

    found = {asked: doctor.native_transport(asked).outcome for asked in Transport}

    assert found == {
        Transport.AUTO: Outcome.WARNING,
        Transport.NATIVE: Outcome.FAILED,
        Transport.GRPCIO: Outcome.OK,
    }


def test_a_native_transport_that_cannot_be_imported_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    monkeypatch.setattr("seqserve_server.transports.transport.find_spec", lambda _: object())

    assert doctor.native_transport(Transport.AUTO).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("cpuinfo", "outcome", "words"),
    [
        ("flags\t: fma avx avx2 avx512f avx512dq avx512bw avx512vl\n", Outcome.OK, "AVX-512"),
        ("flags\t: fma avx avx2 avx512f\n", Outcome.OK, "AVX2"),
        ("model name\t: Old one\nflags\t: sse2 avx\n", Outcome.WARNING, "no AVX2 (Old one)"),
        ("Features\t: fp asimd\n", Outcome.OK, "NEON"),
        ("nothing\n", Outcome.OK, "unknown"),
        (None, Outcome.OK, "unknown"),
    ],
    ids=["AVX-512", "AVX2", "AVX", "ARM", "no flags", "no file"],
)
def test_how_wide_a_processor_computes_is_read_from_its_flags(
    tmp_path: Path, cpuinfo: str | None, outcome: Outcome, words: str
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)

    found = doctor.vectors(path)

    assert found.outcome is outcome
    assert found.found.startswith(words)


@pytest.mark.parametrize(
    ("quota", "outcome", "words"),
    [
        (float("inf"), Outcome.OK, "2 of the host's 8, hence 2 lanes"),
        (2.0, Outcome.OK, "2 of the host's 8, hence 2 lanes"),
        (2.5, Outcome.WARNING, "0.5 of one is left over"),
        (0.5, Outcome.WARNING, "grant a whole core"),
    ],
    ids=["unlimited", "whole", "and a half", "half of one"],
)
def test_a_quota_that_lanes_cannot_use_whole_is_pointed_out(
    quota: float, outcome: Outcome, words: str
) -> None:
    found = doctor.granted_cores(quota, host=8, lanes=2)

    assert found.outcome is outcome
    assert words in str(found)


def test_memory_that_runs_and_a_request_would_fill_is_pointed_out() -> None:
    mib = 1 << 20

    needed = doctor.NeededMemory(runs=128 * mib, messages=128 * mib, queue=96 * mib)
    assert doctor.granted_memory(352 * mib, 8192 * mib, needed).outcome is Outcome.OK
    short = doctor.granted_memory(200 * mib, 8192 * mib, needed)
    assert short.outcome is Outcome.WARNING
    assert short.found == "200 MiB of the host's 8,192"
    assert "352 MiB may be taken beside the models (runs 128, the longest request 128, " in (
        short.advice
    )


def test_the_memory_needed_is_by_the_settings_and_the_widest_model(models: Path) -> None:
    plan = doctor.Plan(
        models,
        processes=2,
        lanes=3,
        max_message_bytes=1000,
        max_queue_steps=600,
        max_request_steps=600,
    )
    widest = max(
        artifact.read_manifest(folder.parent).input.features.size
        for folder in models.glob("*/*/manifest.json")
    )

    needed = doctor.needed_memory(plan)

    assert needed == doctor.NeededMemory(6 * RUN_BYTES, 4000, 2 * 600 * widest * 4)
    assert not doctor.needed_memory(doctor.Plan(models / "none")).queue


def test_settings_that_take_more_memory_than_there_is_are_told(models: Path) -> None:
    _, found, _ = _examine(models, *ALL_FREE, "--max-message-bytes", str(1 << 45), "--json")
    assert found["memory"]["outcome"] == "warning"
    assert "the longest request 67,108,864" in found["memory"]["advice"]
    assert "--max-message-bytes" in found["memory"]["advice"]


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/pod/it\n", {"pod/it/memory.max": "max", "pod/memory.max": "1048576\n"}, 1 << 20),
        ("0::/of/the/host\n", {"memory.max": "2097152"}, 2 << 20),
        ("4:memory:/it\n", {"memory/it/memory.limit_in_bytes": "3145728"}, 3 << 20),
        ("4:memory:/it\n", {"memory/it/memory.limit_in_bytes": str((1 << 63) - 4096)}, 0),
        ("0::/\n", {"memory.max": "max"}, 0),
        ("0::/\n", {}, 0),
    ],
    ids=["a parent's", "its own as the root", "version 1", "version 1, none", "none", "no file"],
)
def test_the_memory_granted_is_that_of_the_tightest_cgroup(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    own = tmp_path / "self-cgroup"
    own.write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert memory.granted(tmp_path, own) == (expected or memory.host())


def test_a_library_that_is_missing_or_too_old_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = ["numpy>=1", "grpcio<1", "no-such-thing>=2", 'torch>=2; extra == "export"']
    monkeypatch.setattr("seqserve_server.doctor.metadata.requires", lambda _: needed)

    found = {each.check: each for each in doctor.libraries()}

    assert {check: each.outcome for check, each in found.items()} == {
        "numpy": Outcome.OK,
        "grpcio": Outcome.WARNING,
        "no-such-thing": Outcome.FAILED,
    }
    assert found["no-such-thing"].advice == "pip install 'no-such-thing>=2'"

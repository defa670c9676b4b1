from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from seqserve_server.errors import ProviderMissing
from seqserve_server.models import sessions
from seqserve_server.models.sessions import CPU, CUDA, choose
from seqserve_server.options import ExecutionProvider

AUTO, ONLY_CPU, ONLY_CUDA = ExecutionProvider.AUTO, ExecutionProvider.CPU, ExecutionProvider.CUDA


def _never_asked(_provider: str) -> bool:
    raise AssertionError("nothing needed to be started")


@pytest.mark.parametrize("asked", [AUTO, ONLY_CUDA])
def test_cuda_is_preferred_where_it_is_installed_and_starts(asked: ExecutionProvider) -> None:
    assert choose(asked, [CUDA, CPU], lambda _: True) == [CUDA, CPU]


def test_the_cpu_is_taken_without_a_look_at_anything_else() -> None:
    assert choose(ONLY_CPU, [CUDA, CPU], _never_asked) == [CPU]


def test_cuda_that_is_not_installed_is_refused_with_what_brings_it() -> None:
    with pytest.raises(ProviderMissing, match=r"only CPUExec.*pip install onnxruntime-gpu"):
        choose(ONLY_CUDA, [CPU], _never_asked)


def test_cuda_that_does_not_start_is_refused_as_such() -> None:
    with pytest.raises(ProviderMissing, match="cannot start it on this host"):
        choose(ONLY_CUDA, [CUDA, CPU], lambda _: False)


@pytest.mark.parametrize("installed", [[CPU], [CUDA, CPU]], ids=["not installed", "no driver"])
def test_any_provider_means_the_cpu_where_there_is_no_cuda(
    installed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose(AUTO, installed, lambda _: False) == [CPU]

    [record] = caplog.records
    assert record.getMessage().startswith("running on the CPU, for there is no CUDA")


def test_cudas_libraries_are_loaded_from_where_pip_puts_them_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("loaded"))
    sessions.starts(CPU)
    assert "loaded" not in capfd.readouterr().err
    sessions.starts(CUDA)
    printed = capfd.readouterr()
    assert "loaded" in printed.err
    assert printed.out == ""  # where `seqserve doctor --json` has its document


def test_the_model_that_tries_a_provider_is_an_identity() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])

    tried = onnx.load_from_string(sessions._IDENTITY)
    [output] = sessions.opener(ONLY_CPU)(sessions._IDENTITY).run(["y"], {"x": np.ones(1, "f4")})

    assert tried.graph == graph
    assert output.tolist() == [1.0]


def test_onnxruntime_is_imported_with_its_telemetry_off() -> None:
    script = (
        "import os, seqserve_server.models.sessions; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}

    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )

    assert told.stdout == "1\n"

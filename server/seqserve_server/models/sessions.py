"""Models opened in onnxruntime, on the execution provider that was asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, Protocol

import onnxruntime as ort
from numpy.typing import NDArray

from seqserve_server.errors import ProviderMissing
from seqserve_server.options import ExecutionProvider

_log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


_PROVIDER_OPTIONS = {CUDA: {"use_tf32": "0"}}
"""TF32 has 10 bits of mantissa: its answers are not those that were published."""

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n'
    b"\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""The ONNX model y = Identity(x), opset 13, to see whether a provider starts."""


class Session(Protocol):
    """What is used of an onnxruntime.InferenceSession."""

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, NDArray[Any]]
    ) -> Sequence[Any]:
        """Runs the graph once and returns the named outputs; lanes call it at the same time."""
        ...

    def get_providers(self) -> Sequence[str]:
        """Names of the execution providers in use, the preferred one first."""
        ...


OpenSession = Callable[[bytes], Session]
"""Opens the content of a model.onnx."""


def opener(provider: ExecutionProvider) -> OpenSession:
    """How models are opened on `provider`.

    Raises:
        ProviderMissing: it cannot be had on this host.
    """
    providers = choose(provider, ort.get_available_providers(), starts)
    return lambda model: _open(model, providers)


def choose(
    provider: ExecutionProvider, installed: Sequence[str], starts: Callable[[str], bool]
) -> list[str]:
    """The onnxruntime providers to open models with, the preferred one first.

    Args:
        provider: What was asked for.
        installed: What the installed onnxruntime has.
        starts: Whether one of these works on this host.

    Raises:
        ProviderMissing: CUDA was asked for and cannot be had.
    """
    if provider is ExecutionProvider.CPU:
        return [CPU]
    if CUDA not in installed:
        reason = (
            f"this onnxruntime has only {', '.join(installed)}; CUDA comes with: "
            "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        )
    elif not starts(CUDA):
        reason = "onnxruntime has it but cannot start it on this host; its messages say why"
    else:
        return [CUDA, CPU]
    if provider is ExecutionProvider.CUDA:
        raise ProviderMissing(f"--execution-provider cuda: {reason}")
    _log.info("running on the CPU, for there is no CUDA: %s", reason)
    return [CPU]


def starts(provider: str) -> bool:
    """Whether it works here: without its driver, onnxruntime warns and falls back to the CPU."""
    if provider == CUDA and hasattr(ort, "preload_dlls"):  # from 1.21 on
        # The loader does not look for CUDA's libraries where pip puts them.
        with redirect_stdout(sys.stderr):
            ort.preload_dlls()
    wanted = list(dict.fromkeys([provider, CPU]))
    return provider in _open(_IDENTITY, wanted).get_providers()


def _open(model: bytes, providers: Sequence[str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # A lane is one thread: parallelism comes from lanes, and spinning would take their cores.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One pattern a shape is kept for good, and here nearly every batch has another shape.
    options.enable_mem_pattern = False
    named = [(provider, _PROVIDER_OPTIONS.get(provider, {})) for provider in providers]
    return ort.InferenceSession(model, options, providers=named)

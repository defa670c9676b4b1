"""Where torch computes, and under which conditions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seqserve_export.config import Device
from seqserve_export.errors import DeviceUnavailable


def find(device: Device) -> torch.device:
    """The device asked for.

    Raises:
        DeviceUnavailable: asked for CUDA where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        why = "no GPU is visible" if torch.version.cuda else "this torch is built without CUDA"
        raise DeviceUnavailable(f"--device cuda: {why}; --device cpu or auto trains on the CPU")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@contextmanager
def undisturbed(device: torch.device, threads: int) -> Iterator[None]:
    """Sets the CPU threads, and leaves the caller's threads and random generators as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)

"""Checkpoints: a run in progress, and the model it ends in, each in one file.

Files are written beside their place, flushed to the disk and renamed, so that a kill at any
moment leaves the last whole one.
"""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from google.protobuf import json_format

from seqserve.v1.manifest_pb2 import Training
from seqserve_export.errors import InvalidCheckpoint
from seqserve_export.network import NetworkConfig, SequenceClassifier
from seqserve_export.trained import TrainedModel

State = dict[str, Any]
"""Tensors, numbers, text and containers of them, as torch.save and torch.load take them."""

MODEL, RUN = "seqserve trained model", "seqserve training run"
_FORM_VERSION = 1


def save(path: Path, kind: str, state: State) -> None:
    """Writes a checkpoint.

    Args:
        path: Where; its folder is there.
        kind: What it holds, MODEL or RUN.
        state: What it holds.

    Raises:
        InvalidCheckpoint: it cannot be written there.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            torch.save({"kind": kind, "form_version": _FORM_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise InvalidCheckpoint(f"cannot write the checkpoint {path}: {error}") from error


def load(path: Path, kind: str) -> State:
    """Reads what `save` wrote.

    Raises:
        InvalidCheckpoint: there is no such file, it is damaged, or it holds something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidCheckpoint(f"cannot read the checkpoint {path}: {error}") from error
    try:
        state = _parse(content)
    except Exception as error:  # Bytes that are anything raise anything.
        raise InvalidCheckpoint(f"{path} is not a checkpoint of seqserve, or is damaged") from error
    if not isinstance(state, dict) or state.get("kind") not in (MODEL, RUN):
        raise InvalidCheckpoint(f"{path} is not a checkpoint of seqserve")
    if state["kind"] != kind:
        raise InvalidCheckpoint(f"{path} holds a {state['kind']}, not a {kind}")
    if state["form_version"] != _FORM_VERSION:
        raise InvalidCheckpoint(
            f"{path} has form {state['form_version']}; this version of seqserve reads form "
            f"{_FORM_VERSION}"
        )
    return state


def _parse(content: bytes) -> object:
    # torch itself does not compare a file with the sums in it.
    if damaged := zipfile.ZipFile(io.BytesIO(content)).testzip():
        raise zipfile.BadZipFile(f"{damaged} is not what was written")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def save_trained(path: Path, trained: TrainedModel, **more: object) -> None:
    """Writes a trained model, and what else is to be known of it."""
    state = {
        "config": asdict(trained.network.config),
        "network": trained.network.state_dict(),
        "labels": trained.labels,
        "feature_names": trained.feature_names,
        "longest_steps": trained.longest_steps,
        "training": json_format.MessageToJson(trained.training),
    }
    save(path, MODEL, {**state, **more})


def load_trained(path: Path) -> TrainedModel:
    """Reads the model that a finished run left.

    Raises:
        InvalidCheckpoint: there is no such file, it is damaged, or it holds no finished model.
    """
    state = load(path, MODEL)
    try:
        network = SequenceClassifier(NetworkConfig(**state["config"]))
        network.load_state_dict(state["network"])
        return TrainedModel(
            network=network.eval(),
            labels=tuple(state["labels"]),
            feature_names=tuple(state["feature_names"]),
            longest_steps=state["longest_steps"],
            training=json_format.Parse(state["training"], Training()),
        )
    except (KeyError, TypeError, RuntimeError, json_format.ParseError) as error:
        raise InvalidCheckpoint(f"{path} is incomplete: {error}") from error

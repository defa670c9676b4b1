"""What can be asked of a training run: its settings, checked when they are made.

A setting that is None is left to `recipe.settle`, which knows the data's size, and some of
those to a choice by validation (auto.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from seqserve_export.errors import InvalidSettings
from seqserve_export.network import Cell, Head

Optimizer = Literal["adamw", "adam"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run; those that are None are chosen for the data.

    Raises:
        InvalidSettings: a value out of range, or settings that contradict one another.
    """

    cell: Cell = "lstm"
    """The recurrent cell."""
    hidden_size: int = 64
    """Features of the hidden state, at least 1."""
    num_layers: int = 1
    """Stacked recurrent layers, at least 1."""
    bias: bool = True
    """Whether the cells have bias weights."""
    dropout: float | None = None
    """Probability of dropping an output of a layer, the head's input included; from 0, below 1."""
    bidirectional: bool = False
    """Whether each layer also runs backwards; such a model cannot be advanced in pieces."""
    proj_size: int = 0
    """Size of the LSTM's projected hidden state, below hidden_size; 0 without projection."""
    head: Head | None = None
    """What the last layer's outputs are reduced to."""
    input_noise: float | None = None
    """Standard deviation of the noise added to standardised features in training."""
    input_dropout: float | None = None
    """Probability of dropping a feature of a step in training; from 0, below 1."""
    batch_size: int | None = None
    """Sequences an update, at least 1."""
    optimizer: Optimizer | None = None
    """AdamW with the one-cycle schedule, or plain Adam with a constant learning rate."""
    learning_rate: float | None = None
    """The optimiser's learning rate; with adamw the peak of its cycle."""
    weight_decay: float | None = None
    """Decoupled weight decay with adamw, an L2 penalty with adam."""
    epochs: int | None = None
    """Passes over the training set, exactly; not together with updates."""
    updates: int | None = None
    """Optimiser steps, exactly; not together with epochs."""
    patience: int | None = None
    """Epochs without a lower validation loss before training stops; 0 never stops early."""
    class_weights: bool = False
    """Whether the loss weighs every class alike, however many examples it has."""
    clip_norm: float | None = None
    """Largest norm of the gradient; 0 leaves it as it is."""
    seed: int = 0
    """Of every random choice: on the CPU, equal seeds give equal weights, bit for bit."""
    device: Device = "auto"
    """Where to train; auto takes the GPU where there is one."""
    threads: int = 1
    """CPU threads. One is fastest for small networks, and its sums are the same on every host."""
    auto: bool | None = None
    """Whether head and schedule are chosen by validation, as far as they are not given."""

    def __post_init__(self) -> None:
        for name, words in (
            ("cell", get_args(Cell)),
            ("head", (None, *get_args(Head))),
            ("optimizer", (None, *get_args(Optimizer))),
            ("device", get_args(Device)),
        ):
            if getattr(self, name) not in words:
                allowed = ", ".join(word for word in words if word)
                raise InvalidSettings(f"{_option(name)} is one of {allowed}, not {self._of(name)}")
        for name in ("hidden_size", "num_layers", "batch_size", "epochs", "updates", "threads"):
            self._require(name, 1)
        for name in ("proj_size", "patience", "input_noise", "weight_decay", "clip_norm"):
            self._require(name, 0)
        for name in ("dropout", "input_dropout"):
            self._require(name, 0, below=1)
        self._require("seed", 0, below=2**63)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise InvalidSettings(f"--learning-rate is above 0, not {self.learning_rate}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.proj_size and self.cell != "lstm":
            raise InvalidSettings(
                f"--proj-size projects the hidden state of an lstm; a {self.cell} has none"
            )
        if self.proj_size >= self.hidden_size:
            raise InvalidSettings(
                f"--proj-size {self.proj_size} is not below --hidden-size {self.hidden_size}"
            )
        if self.epochs is not None and self.updates is not None:
            raise InvalidSettings("--epochs and --updates are two lengths for one run; give one")

    def _require(self, name: str, least: float, below: float = math.inf) -> None:
        value = getattr(self, name)
        # Written so that NaN fails too.
        if value is not None and not least <= value < below:
            most = "" if below == math.inf else f" and below {below}"
            raise InvalidSettings(f"{_option(name)} is at least {least}{most}, not {value}")

    def _of(self, name: str) -> str:
        return repr(getattr(self, name))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")

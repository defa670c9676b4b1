"""One network's way from random weights to its last update, epoch by epoch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from seqserve_export.batches import Batch, draw, pack
from seqserve_export.errors import Diverged
from seqserve_export.evaluation import accuracy, predict
from seqserve_export.examples import Examples
from seqserve_export.network import SequenceClassifier
from seqserve_export.recipe import Recipe

State = dict[str, Any]
"""Tensors, numbers and containers of them, as torch.save and torch.load take them."""


@dataclass(frozen=True)
class Score:
    """How a network does on the validation set."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """From 0 to 1."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed."""

    number: int
    """From 1."""
    of: int
    """Epochs of the whole fit."""
    last_loss: float
    """The last batch's mean cross-entropy, in nats."""
    mean_loss: float
    """The epoch's mean cross-entropy a sequence, in nats."""
    validation: Score | None
    """After the epoch; None without a validation set."""


class Fit:
    """Trains one network; between two epochs its state can be taken out and put back.

    Every random choice of an epoch follows from the seed and the epoch's number. So an epoch
    goes the same way however the run came there, and no generator's state has to be kept.

    Args:
        recipe: What to do.
        classes: Classes to tell apart.
        examples: To learn from.
        validation: To stop early by; None runs the recipe to its end.
        seed: Numbers that no other fit of this run has in this order.
        device: Where to train.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: int,
        examples: Examples,
        validation: Examples | None,
        seed: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self._recipe = recipe
        self._examples = examples
        self._validation = validation
        self._seed = seed
        self._device = device
        self._total = recipe.total_updates(len(examples))
        torch.manual_seed(self._seed_of(epoch=0))
        self.network = SequenceClassifier(recipe.network(examples.features, classes)).to(device)
        self._weights = _class_weights(recipe, classes, examples.targets).to(device)
        self._optimizer = _optimizer(recipe, self.network)
        self._schedule = _schedule(recipe, self._optimizer, self._total)
        self.epochs = 0
        """Epochs run so far."""
        self.updates = 0
        """Updates done so far."""
        self.mean_loss = float("nan")
        """The last epoch's mean loss."""
        self._best: State | None = None

    @property
    def finished(self) -> bool:
        """Whether the recipe is at its end, or validation has stopped it."""
        return self.updates >= self._total or self._out_of_patience()

    def run_epoch(self) -> Epoch:
        """Runs one epoch.

        Raises:
            Diverged: the loss is not finite.
        """
        self.epochs += 1
        torch.manual_seed(self._seed_of(self.epochs))
        generator = Generator().manual_seed(self._seed_of(self.epochs))
        batches = draw(self._examples.lengths, self._recipe.batch_size, generator)
        self.network.train()
        # One transfer an epoch: asking a loss for its number each update would stall a GPU.
        losses = torch.stack(
            [self._update(pack(self._examples, rows)) for rows in self._within_budget(batches)]
        ).cpu()
        sizes = torch.tensor([len(rows) for rows in self._within_budget(batches)])
        self.updates += len(losses)
        self.mean_loss = float((losses.double() * sizes).sum() / sizes.sum())
        if not np.isfinite(self.mean_loss):
            raise Diverged(
                f"the loss is {self.mean_loss} in epoch {self.epochs}; "
                f"a --learning-rate below {self._recipe.learning_rate:g} may help"
            )
        return Epoch(
            number=self.epochs,
            of=self._recipe.total_epochs(len(self._examples)),
            last_loss=float(losses[-1]),
            mean_loss=self.mean_loss,
            validation=self._validate(),
        )

    def finish(self) -> SequenceClassifier:
        """The network in eval mode, with the weights that validated best where it was watched."""
        if self._best is not None:
            self.network.load_state_dict(self._best["network"])
        return self.network.eval()

    def state(self) -> State:
        """Everything the next epoch depends on, by reference."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict() if self._schedule else None,
            "epochs": self.epochs,
            "updates": self.updates,
            "mean_loss": self.mean_loss,
            "best": self._best,
        }

    def load_state(self, state: State) -> None:
        """Puts back what `state` gave, in a fit made with the same arguments."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._schedule:
            self._schedule.load_state_dict(state["schedule"])
        self.epochs = state["epochs"]
        self.updates = state["updates"]
        self.mean_loss = state["mean_loss"]
        self._best = state["best"]

    def _seed_of(self, epoch: int) -> int:
        words = np.random.SeedSequence([*self._seed, epoch]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(1))

    def _within_budget(self, batches: list[Tensor]) -> list[Tensor]:
        return batches[: self._total - self.updates]

    def _update(self, batch: Batch) -> Tensor:
        batch = batch.to(self._device)
        logits = self.network.logits(self._augmented(batch.steps))
        loss = functional.cross_entropy(logits, batch.targets, self._weights)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip_norm)
        self._optimizer.step()
        if self._schedule:
            self._schedule.step()
        return loss.detach()

    def _augmented(self, steps: PackedSequence) -> PackedSequence:
        values = steps.data
        if self._recipe.input_noise:
            values = values + self._recipe.input_noise * torch.randn_like(values)
        if self._recipe.input_dropout:
            values = functional.dropout(values, self._recipe.input_dropout)
        return steps._replace(data=values)

    def _validate(self) -> Score | None:
        if self._validation is None:
            return None
        logits, targets = predict(self.network, self._validation), self._validation.targets
        loss = float(functional.cross_entropy(logits, targets, self._weights.cpu()))
        if self._best is None or loss < self._best["loss"]:
            weights = copy.deepcopy(self.network.state_dict())
            self._best = {"network": weights, "loss": loss, "epoch": self.epochs}
        return Score(loss, accuracy(logits, targets))

    def _out_of_patience(self) -> bool:
        if self._best is None or not self._recipe.patience:
            return False
        return bool(self.epochs - self._best["epoch"] >= self._recipe.patience)


def _class_weights(recipe: Recipe, classes: int, targets: Tensor) -> Tensor:
    """(classes,): 1, or such that every class weighs alike and an example 1 on average."""
    if not recipe.class_weights:
        return torch.ones(classes)
    counts = torch.bincount(targets, minlength=classes).clamp(min=1)
    return len(targets) / (classes * counts)


def _optimizer(recipe: Recipe, network: nn.Module) -> Adam:
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(
        network.parameters(),
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _schedule(recipe: Recipe, optimizer: Adam, updates: int) -> LRScheduler | None:
    """The one-cycle policy (Smith and Topin 2018, "Super-Convergence"), or none."""
    if recipe.optimizer == "adam":
        return None
    return OneCycleLR(optimizer, recipe.learning_rate, total_steps=updates)

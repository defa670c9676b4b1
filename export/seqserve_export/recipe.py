"""What a training run does where its settings leave a choice, by the size of the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from seqserve_export.config import Optimizer, TrainingConfig
from seqserve_export.network import Head, NetworkConfig

AUTO_BELOW = 5000
"""Sequences below which head and schedule are chosen by validation unless told otherwise."""

_LEAST_UPDATES, _MOST_UPDATES, _EPOCHS = 1000, 10_000, 30


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingConfig):
    """Settings that leave nothing open: fields as in TrainingConfig, in the same units."""

    dropout: float
    head: Head
    input_noise: float
    input_dropout: float
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    patience: int
    clip_norm: float
    auto: bool

    def network(self, features: int, classes: int) -> NetworkConfig:
        """The network's shape for data of so many features and classes."""
        return NetworkConfig(
            features=features,
            classes=classes,
            cell=self.cell,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            bias=self.bias,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            proj_size=self.proj_size,
            head=self.head,
        )

    def batches(self, sequences: int) -> int:
        """Updates an epoch."""
        return -(-sequences // self.batch_size)

    def total_updates(self, sequences: int) -> int:
        """Updates of the whole run."""
        if self.epochs is not None:
            return self.epochs * self.batches(sequences)
        assert self.updates is not None, "settle fills in one of epochs and updates"
        return self.updates

    def total_epochs(self, sequences: int) -> int:
        """Epochs of the whole run; the last may be cut short."""
        return -(-self.total_updates(sequences) // self.batches(sequences))

    def settings(self) -> dict[str, str]:
        """Every setting by its command-line name, as the manifest has them."""
        return {
            name.replace("_", "-"): str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in asdict(self).items()
            if value is not None
        }


def settle(config: TrainingConfig, sequences: int) -> Recipe:
    """Fills in what the settings leave open.

    AdamW comes with what keeps a network from learning its examples by heart: dropout, noise,
    weight decay. Plain Adam comes without any of it, as in a textbook.

    Args:
        config: What was asked for.
        sequences: In the training set.
    """
    batch_size = config.batch_size or _batch_size(sequences)
    regularised = config.optimizer != "adam"
    defaults = {
        "dropout": 0.2 if regularised else 0.0,
        "head": "last",
        "input_noise": 0.6 if regularised else 0.0,
        "input_dropout": 0.2 if regularised else 0.0,
        "batch_size": batch_size,
        "optimizer": "adamw",
        "learning_rate": 3e-3 if regularised else 1e-3,
        "weight_decay": 1e-2 if regularised else 0.0,
        "clip_norm": 1.0,
        "auto": _chooses(config, sequences),
    }
    if config.epochs is None and config.updates is None:
        defaults["updates"] = _updates(sequences, batch_size)
    asked = {field.name: getattr(config, field.name) for field in fields(TrainingConfig)}
    given = {name: value for name, value in asked.items() if value is not None}
    recipe = Recipe(**{**asked, "patience": 0, **defaults, **given})
    if config.patience is None:
        # A one-cycle run gets worse before it gets better; a quarter of it sees over the hump.
        recipe = replace(recipe, patience=max(5, recipe.total_epochs(sequences) // 4))
    return recipe


def _chooses(config: TrainingConfig, sequences: int) -> bool:
    """Whether head and schedule are chosen by validation where --auto is not given."""
    told = (config.head, config.epochs, config.optimizer, config.learning_rate)
    return sequences < AUTO_BELOW and not any(told)


def _batch_size(sequences: int) -> int:
    """At least 8 batches an epoch of a small set; larger ones as the set grows."""
    if sequences < 4096:
        return min(max(sequences // 8, 8), 32)
    return min(sequences // 128, 256)


def _updates(sequences: int, batch_size: int) -> int:
    """Enough for 40 sequences, and no more than a million can use."""
    updates = _EPOCHS * -(-sequences // batch_size)
    return min(max(updates, _LEAST_UPDATES), _MOST_UPDATES)

"""Models of random weights: what a model costs does not depend on what it has learnt."""

from __future__ import annotations

from pathlib import Path

import torch

from seqserve.v1.manifest_pb2 import Training
from seqserve_export.network import NetworkConfig, SequenceClassifier
from seqserve_export.publish import publish
from seqserve_export.trained import TrainedModel


def random_model(config: NetworkConfig, longest_steps: int = 29) -> TrainedModel:
    """A model of this shape with torch's initial weights, always the same."""
    torch.manual_seed(0)
    return TrainedModel(
        network=SequenceClassifier(config).eval(),
        labels=tuple(f"class {index}" for index in range(config.classes)),
        feature_names=(),
        longest_steps=longest_steps,
        training=Training(data="random weights"),
    )


def publish_random(repository: Path, name: str, config: NetworkConfig) -> None:
    """Publishes such a model as the next version of `name`."""
    publish(random_model(config), repository, name)

"""Models of random weights: what a model costs does not depend on what it has learnt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.workloads import FEATURES, LONGEST_STEPS
from seqserve.v1.manifest_pb2 import Training
from seqserve_export.network import NetworkConfig, SequenceClassifier
from seqserve_export.publish import publish
from seqserve_export.trained import TrainedModel

SMALL, WIDE, BIDIRECTIONAL = "lstm-64x2", "lstm-256x1", "bilstm-64x2"

NETWORKS = {
    SMALL: NetworkConfig(features=FEATURES, classes=9, hidden_size=64, num_layers=2),
    WIDE: NetworkConfig(features=FEATURES, classes=9, hidden_size=256),
    BIDIRECTIONAL: NetworkConfig(
        features=FEATURES, classes=9, hidden_size=64, num_layers=2, bidirectional=True
    ),
}
"""What the scheduler's benchmarks serve, by name: hidden size x layers."""


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


def publish_random(
    repository: Path, name: str, config: NetworkConfig, longest_steps: int = 29
) -> None:
    """Publishes such a model as the next version of `name`."""
    publish(random_model(config, longest_steps), repository, name)


@contextmanager
def published(*names: str) -> Iterator[Path]:
    """A repository with these of NETWORKS, for sequences of up to LONGEST_STEPS, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            publish_random(Path(folder), name, NETWORKS[name], LONGEST_STEPS)
        yield Path(folder)

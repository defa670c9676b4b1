"""Models that need no training, for the tests of every room.

torch is imported only when a model is made: the rooms that do without it are tested without.
A test that takes these fixtures names their types under TYPE_CHECKING:
`from tests.conftest import ModelRepository, RandomModel`.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from seqserve_export.network import Cell, Head
    from seqserve_export.trained import TrainedModel

# onnxruntime reads it when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell's background jobs have Ctrl-C ignored, and so would have all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a shared machine.
settings.register_profile("seqserve", deadline=None)
settings.load_profile("seqserve")


class NetworkOptions(TypedDict, total=False):
    """The fields of NetworkConfig; 3 features, 4 classes and hidden size 8 by default."""

    features: int
    classes: int
    cell: Cell
    hidden_size: int
    num_layers: int
    bias: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    head: Head


class ModelOptions(NetworkOptions, total=False):
    """What a random model may be."""

    seed: int
    longest_steps: int


class PublishedOptions(ModelOptions, total=False):
    """And what its manifest may say."""

    admit_non_finite: bool


class RandomModel(Protocol):
    """Makes a model of seeded random weights: `random_model(cell="gru", seed=3)`."""

    def __call__(
        self, *, seed: int = 0, longest_steps: int = 29, **network: Unpack[NetworkOptions]
    ) -> TrainedModel: ...


class ModelRepository(Protocol):
    """Publishes random models, each as version 1, into a fresh repository and returns its folder.

    `repository(speakers={"cell": "gru"}, other={"bidirectional": True})`
    """

    def __call__(self, **models: PublishedOptions) -> Path: ...


@pytest.fixture(scope="session")
def random_model() -> RandomModel:
    return _random_model


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    def publish_all(**models: PublishedOptions) -> Path:
        from seqserve_export.publish import publish

        folder = tmp_path_factory.mktemp("models")
        for name, options in models.items():
            model: dict[str, Any] = {**options}
            admit_non_finite = model.pop("admit_non_finite", False)
            publish(_random_model(**model), folder, name, admit_non_finite=admit_non_finite)
        return folder

    return publish_all


def _random_model(
    *, seed: int = 0, longest_steps: int = 29, **network: Unpack[NetworkOptions]
) -> TrainedModel:
    import torch

    from seqserve.v1.manifest_pb2 import Training
    from seqserve_export.network import NetworkConfig, SequenceClassifier
    from seqserve_export.trained import TrainedModel

    config = replace(NetworkConfig(features=3, classes=4, hidden_size=8), **network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = SequenceClassifier(config).eval()
        classifier.mean.normal_(std=5.0)
        classifier.scale.uniform_(0.3, 3.0)
        classifier.temperature.fill_(1.7)
    return TrainedModel(
        network=classifier,
        labels=tuple(f"class {index}" for index in range(config.classes)),
        feature_names=tuple(f"feature {index}" for index in range(config.features)),
        longest_steps=longest_steps,
        training=Training(data="random weights", seed=seed),
    )

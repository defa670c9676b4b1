"""A version of a model that is ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from seqserve.graph import GraphRunner
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_server.models.live_state import StateCodec
from seqserve_server.models.runner import Runner


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A version of a model that is ready to answer: proven on this host and provider."""

    manifest: ModelManifest
    """As published."""
    digest: str
    """sha256 of manifest.json, 64 hexadecimal digits."""
    execution_provider: str
    """The onnxruntime execution provider that runs it."""
    graph: GraphRunner
    """Knows the state's tensors."""
    runner: Runner
    """Advances its rows."""

    # Read once: every access to a field of a message makes a new Python object.

    @cached_property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @cached_property
    def version(self) -> int:
        """A positive integer."""
        return self.manifest.version

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits' columns."""
        return tuple(self.manifest.labels)

    @cached_property
    def features(self) -> int:
        """Features a step."""
        return self.manifest.input.features.size

    @cached_property
    def admits_non_finite(self) -> bool:
        """Whether sequences may have NaN and infinities."""
        return self.manifest.input.features.admit_non_finite

    @cached_property
    def max_steps(self) -> int:
        """The longest sequence accepted, in steps."""
        return self.manifest.limits.max_steps

    @cached_property
    def forward_only(self) -> bool:
        """Whether a sequence may be advanced in pieces."""
        return len(self.manifest.graph.state) > 0

    @cached_property
    def state_codec(self) -> StateCodec:
        """Between its state and the bytes that a token holds."""
        return StateCodec(self.manifest.graph.state, self.graph)

    def __str__(self) -> str:
        """For messages: `speakers version 3`."""
        return f"{self.name} version {self.version}"

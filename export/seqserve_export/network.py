"""The network: standardisation, recurrent layers, a head and a linear layer, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from seqserve_export import padded_lstm

Cell = Literal["lstm", "gru", "rnn-tanh", "rnn-relu"]
Head = Literal["last", "mean", "max"]


@dataclass(frozen=True)
class NetworkConfig:
    """The network's shape, in the words of torch.nn.LSTM."""

    features: int
    """Features a step."""
    classes: int
    """Classes to tell apart."""
    cell: Cell = "lstm"
    """The recurrent cell."""
    hidden_size: int = 64
    """Features of the hidden state."""
    num_layers: int = 1
    """Stacked recurrent layers."""
    bias: bool = True
    """Whether the cells have bias weights."""
    dropout: float = 0.0
    """Probability of dropping an output of a layer, the head's input included, in training."""
    bidirectional: bool = False
    """Whether each layer also runs backwards."""
    proj_size: int = 0
    """Size of the LSTM's projected hidden state; 0 without projection."""
    head: Head = "last"
    """What the last layer's outputs are reduced to."""

    @property
    def output_size(self) -> int:
        """Numbers a step that the last recurrent layer gives, both directions together."""
        return (self.proj_size or self.hidden_size) * (2 if self.bidirectional else 1)


class SequenceClassifier(nn.Module):
    """Logits for padded batches of sequences of feature vectors.

    The buffers `mean` and `scale`, (features,), standardise the input; `temperature` divides
    the logits before the softmax (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", equation 9).
    """

    mean: Tensor
    scale: Tensor
    temperature: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("scale", torch.ones(config.features))
        self.register_buffer("temperature", torch.ones(()))
        self.recurrent = _recurrent(config)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.output_size, config.classes)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Logits before temperature scaling, (batch, classes).

        Args:
            values: (batch, time, features), float32; padding may hold anything finite.
            lengths: (batch,), int64 on the CPU, each from 1 to time.
        """
        packed = pack_padded_sequence(
            self.standardise(values), lengths, batch_first=True, enforce_sorted=False
        )
        return self.logits(packed)

    def standardise(self, values: Tensor) -> Tensor:
        """Values as the recurrent layers read them, in the shape they came in."""
        return (values - self.mean) / self.scale

    def logits(self, standardised: PackedSequence) -> Tensor:
        """Logits before temperature scaling, (batch, classes), of standardised sequences."""
        outputs, lengths = self._outputs(standardised)
        pooled = self._pool(outputs, lengths.to(outputs.device))
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated class probabilities, (batch, classes)."""
        return torch.softmax(logits / self.temperature, dim=-1)

    def _outputs(self, standardised: PackedSequence) -> tuple[Tensor, Tensor]:
        """The last layer's outputs, (batch, time, output), and the lengths, (batch,)."""
        on_cpu = standardised.data.device.type == "cpu"
        if isinstance(self.recurrent, nn.LSTM) and not self.config.proj_size and on_cpu:
            padded, lengths = pad_packed_sequence(standardised, batch_first=True)
            return padded_lstm.run(self.recurrent, padded, lengths), lengths
        packed, _ = self.recurrent(standardised)
        return pad_packed_sequence(packed, batch_first=True)

    def _pool(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """The outputs of each sequence's own steps reduced as the head says, (batch, output)."""
        if self.config.head == "last":
            return self._last(outputs, lengths)
        padding = torch.arange(outputs.shape[1], device=outputs.device) >= lengths[:, None]
        if self.config.head == "mean":
            return outputs.masked_fill(padding[..., None], 0.0).sum(dim=1) / lengths[:, None]
        return outputs.masked_fill(padding[..., None], float("-inf")).amax(dim=1)

    def _last(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """Each direction's output after its last step: forwards the last, backwards the first."""
        last = outputs[torch.arange(len(lengths), device=outputs.device), lengths - 1]
        if not self.config.bidirectional:
            return last
        size = self.config.output_size // 2
        return torch.cat((last[:, :size], outputs[:, 0, size:]), dim=-1)


def _recurrent(config: NetworkConfig) -> nn.LSTM | nn.GRU | nn.RNN:
    shape = {
        "input_size": config.features,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "bias": config.bias,
        "batch_first": True,
        # torch drops between layers only, and warns where there is nothing between.
        "dropout": config.dropout if config.num_layers > 1 else 0.0,
        "bidirectional": config.bidirectional,
    }
    if config.cell == "lstm":
        return nn.LSTM(**shape, proj_size=config.proj_size)
    if config.proj_size:
        raise ValueError(f"only an lstm can be projected (proj_size), not a {config.cell}")
    if config.cell == "gru":
        return nn.GRU(**shape)
    return nn.RNN(**shape, nonlinearity="tanh" if config.cell == "rnn-tanh" else "relu")

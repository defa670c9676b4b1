"""What the command line offers and what it takes by default; apart, so that it costs no import."""

from __future__ import annotations

from enum import StrEnum

ADDRESS = "127.0.0.1:8001"
MAX_MESSAGE_BYTES = 64 << 20
MAX_REQUEST_SEQUENCES = 16_384
MAX_REQUEST_STEPS = 524_288
MAX_QUEUE_STEPS = 2_097_152
PROCESSES = 1
BULK_PATIENCE_S = 10.0
TOKEN_LIFETIME_S = 86_400.0
DRAIN_PAUSE_S = 0.0
DRAIN_GRACE_S = 30.0
STATS_INTERVAL_S = 0.0
METRICS_ADDRESS = "127.0.0.1:8002"
METRICS_OFF = "off"
POLL_INTERVAL_S = 0.0
MAX_CONCURRENT_STREAMS = 1024
MAX_METADATA_BYTES = 16_384
KEEPALIVE_S = 7200.0
KEEPALIVE_TIMEOUT_S = 20.0
MAX_CONNECTION_AGE_S = 0.0
MAX_CONNECTION_IDLE_S = 0.0


class Panel(StrEnum):
    """What the options are sorted by in the help."""

    CONFIGURATION = "Where settings come from"
    PORT = "The port"
    CONNECTIONS = "Connections"
    SECURITY = "Who may call"
    MODELS = "The models"
    WORK = "Work and its order"
    LIMITS = "Limits"
    LIVE = "Live sequences"
    OPERATION = "Operation"
    OBSERVATION = "Logs, metrics, traces"


class ExecutionProvider(StrEnum):
    """What onnxruntime runs the models on."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"
    """CUDA where there is one, else the CPU."""


class Transport(StrEnum):
    """The gRPC server under the servicers."""

    AUTO = "auto"
    """Native where it is installed, else grpcio."""
    NATIVE = "native"
    """pygrpc-native: HTTP/2 and framing in Rust, outside the interpreter lock; no TLS."""
    GRPCIO = "grpcio"
    """grpc.aio."""


class LogFormat(StrEnum):
    """What a log line looks like."""

    CONSOLE = "console"
    """For people: time, level, words, then what else is known as name=value."""
    JSON = "json"
    """For machines: an object a line."""


class LogLevel(StrEnum):
    """The least important log lines that are shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

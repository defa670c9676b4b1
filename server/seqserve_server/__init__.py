"""An artifact in, answers out: a gRPC server over onnxruntime.

The way of a call, a file or folder for each station:

    transports/   what listens: native_listener or grpcio; limits of connections, decoding
    security/     whether it may come in: TLS, tokens and their rights
    servicers/    protobuf ↔ numpy, deadline, cancellation; no policy
    engine        which model and version, validate, admit      (validation, answers)
    scheduling/   which rows run next, how far, on which lane: continuous batching

`models/` is the way of a model: `repository` holds the versions and their states, `loading` reads,
checks and proves one, first in a process of its own (`proving`), `sessions` opens it in
onnxruntime, `runner` knows its graph and costs, and `watchdog` takes out of readiness what then
fails or hangs. `observability/` is what operators see: logs, metrics, traces.

`serving` puts all of it together, `process` runs it under signals, `processes` keeps several on one
port, `worker` is one of them. `commands` is their command line: `flags` and `options` say what it
takes, `configuration` where that comes from, `settings` what it must be. `doctor` looks at a host
before a server is started on it.
"""

import os

# onnxruntime reads this when it is imported, which only modules of this package do.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

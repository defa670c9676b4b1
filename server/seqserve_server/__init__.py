"""An artifact in, answers out: a gRPC server over onnxruntime.

The way of a call, a file for each station:

    transport     what listens: native_listener or grpcio
    servicers/    protobuf ↔ numpy, deadline, cancellation; no policy
    engine        which model and version, validate, admit      (validation, tokens, answers)
    scheduling/   which rows run next, how far, on which lane: continuous batching
    runner        how a model is run: its graph, its costs

The way of a model: `repository` holds the versions and their states, `loading` reads,
checks and proves one, `sessions` opens it in onnxruntime. `serving` puts all of it together,
`process` runs it under signals, `processes` keeps several on one port, `worker` is one of them,
and `commands` is their command line.
"""

import os

# onnxruntime reads this when it is imported, which only modules of this package do.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

"""An artifact in, answers out: a gRPC server over onnxruntime."""

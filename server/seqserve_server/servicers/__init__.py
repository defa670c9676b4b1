"""The gRPC services: protobuf ↔ numpy, deadline and cancellation; no policy."""

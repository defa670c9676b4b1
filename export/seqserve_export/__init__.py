"""Data in, a verified artifact out: trains, converts to ONNX, proves and publishes."""

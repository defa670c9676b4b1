"""What the docs claim about speed, measured side by side."""

import os

# onnxruntime reads it when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

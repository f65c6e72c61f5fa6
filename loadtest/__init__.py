"""Load and throughput, measured."""

import os

# As in the server: the peers import ONNX Runtime without it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

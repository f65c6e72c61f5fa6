"""The translation server: numpy, ONNX Runtime and gRPC; never torch."""

import os

# From 1.29 ONNX Runtime tells Microsoft about the models that it loads and the machine they run on,
# unless it finds this when it is imported. Whoever hosts their own translation wants none of that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

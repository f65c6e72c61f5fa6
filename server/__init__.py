"""The translation server: numpy, ONNX Runtime and gRPC; never torch."""

"""Load and throughput, measured."""

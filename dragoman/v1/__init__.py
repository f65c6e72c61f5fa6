"""Stubs generated from proto/dragoman/v1 by `make proto`."""

"""Checkpoints in other projects' layouts: read, described as networks, written as bundles."""

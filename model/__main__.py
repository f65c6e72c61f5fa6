"""``torchrun ... -m model EXPERIMENT --out RUN``: ``dragoman train`` as a module."""

from __future__ import annotations

import sys

from model.commands import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))

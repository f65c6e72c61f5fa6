from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy import toy_data, toy_experiment

from model.train import Trainer, TrainingData


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums in one order: what is claimed to the bit can be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def toy() -> TrainingData:
    return toy_data()


@pytest.fixture(scope="session")
def toy_trainer(toy: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A tiny model that has learnt to say letters backwards."""
    folder: Path = tmp_path_factory.mktemp("toy-run")
    trainer = Trainer(toy_experiment(), toy, folder)
    trainer.run()
    trainer.validate()
    return trainer

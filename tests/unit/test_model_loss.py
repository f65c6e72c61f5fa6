"""More pencil and paper for the loss and the schedule."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.loss import label_smoothed_loss
from model.schedule import learning_rate


def test_label_smoothing_of_a_tenth_over_four_classes_by_hand() -> None:
    # V = 4, s = 0.1: the true class gets 0.9, each other 0.1 / 3 = 1/30.
    # Probabilities 1/2, 1/4, 1/8, 1/8, true class 1:
    # 0.9 ln 4 + (ln 2 + ln 8 + ln 8) / 30 = (1.8 + 7/30) ln 2 = 61/30 ln 2 = 1.40940...
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 7.0  # a shift changes nothing
    loss = label_smoothed_loss(logits, torch.tensor([1]), pad_id=0, smoothing=0.1)
    assert loss.smoothed.item() == pytest.approx(61 / 30 * math.log(2), abs=1e-5)
    assert loss.negative_log_likelihood.item() == pytest.approx(2 * math.log(2), abs=1e-5)
    # PyTorch: 0.9 + 0.025 for the true class, 0.025 for others: (1.8 + 0.025 * 9) ln 2
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor([1]), label_smoothing=0.1)
    assert theirs.item() == pytest.approx(2.025 * math.log(2), abs=1e-5)


def test_the_least_loss_is_the_entropy_of_the_smoothed_labels() -> None:
    q = torch.tensor([[0.9, 1 / 30, 1 / 30, 1 / 30]])
    logits = q.log().requires_grad_()
    loss = label_smoothed_loss(logits, torch.tensor([0]), pad_id=3, smoothing=0.1)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(1 / 30))
    assert loss.smoothed.item() == pytest.approx(entropy, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss.smoothed, logits)
    torch.testing.assert_close(gradient, torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_the_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5), torch.tensor([1, 0])

    def loss(values: torch.Tensor) -> torch.Tensor:
        return label_smoothed_loss(values, labels, pad_id=0, smoothing=0.1).smoothed

    (gradient,) = torch.autograd.grad(loss(leaf := logits.clone().requires_grad_()), leaf)
    for row in range(2):
        for column in range(5):
            step = torch.zeros(2, 5)
            step[row, column] = 1e-2
            slope = (loss(logits + step) - loss(logits - step)) / 2e-2
            assert gradient[row, column].item() == pytest.approx(slope.item(), abs=1e-3)
    assert (gradient[1] == 0).all()  # padding


@given(st.integers(2, 50), st.floats(0, 0.9), st.integers(0, 5))
def test_gradients_of_a_token_sum_to_zero(classes: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, generator=generator).requires_grad_()
    loss = label_smoothed_loss(logits, torch.tensor([1, 1, 0]), pad_id=0, smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss.smoothed, logits)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(3), atol=1e-5, rtol=0)
    assert loss.tokens == 2


def test_the_gradient_has_the_type_of_the_logits() -> None:
    logits = torch.randn(3, 7).bfloat16().requires_grad_()
    loss = label_smoothed_loss(logits, torch.tensor([1, 2, 3]), pad_id=0, smoothing=0.1)
    assert loss.smoothed.dtype is torch.float32
    (loss.smoothed / 3).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.dtype is torch.bfloat16


def test_the_papers_schedule_by_hand() -> None:
    # 512^-0.5 = 1 / 22.627417; 4000^-1.5 = 1 / 252982.21; 4000^-0.5 = 1 / 63.245553
    assert learning_rate(1, 512, 4000) == pytest.approx(1 / 22.627417 / 252982.21)
    assert learning_rate(4000, 512, 4000) == pytest.approx(1 / 22.627417 / 63.245553)
    # 16000 is four times as far, so half the peak
    assert learning_rate(16_000, 512, 4000) == pytest.approx(1 / 22.627417 / 63.245553 / 2)

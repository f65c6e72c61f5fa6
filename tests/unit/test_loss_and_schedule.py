"""Both formulas against values worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.loss import label_smoothed_loss
from model.schedule import learning_rate, plot


def test_label_smoothing_by_hand() -> None:
    # V = 4, s = 0.3: the true class gets 0.7, each other 0.3 / 3 = 0.1.
    # Probabilities 1/2, 1/4, 1/8, 1/8, true class 0:
    # 0.7 ln 2 + 0.1 ln 4 + 0.1 ln 8 + 0.1 ln 8 = (0.7 + 0.2 + 0.3 + 0.3) ln 2 = 1.5 ln 2
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    loss = label_smoothed_loss(logits, torch.tensor([0]), pad_id=3, smoothing=0.3)
    assert loss.smoothed.item() == pytest.approx(1.5 * math.log(2), abs=1e-6)
    assert loss.negative_log_likelihood.item() == pytest.approx(math.log(2), abs=1e-6)
    assert loss.tokens == 1


def test_it_is_not_pytorchs_label_smoothing() -> None:
    # PyTorch: (1 - s) NLL + s / V * sum: 0.7 ln 2 + 0.075 (1 + 2 + 3 + 3) ln 2 = 1.375 ln 2
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    theirs = cross_entropy(logits, torch.tensor([0]), label_smoothing=0.3)
    assert theirs.item() == pytest.approx(1.375 * math.log(2), abs=1e-6)


def test_padding_counts_for_nothing() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 7), torch.tensor([4, 0, 2])
    whole = label_smoothed_loss(logits, labels, pad_id=0, smoothing=0.1)
    parts = [
        label_smoothed_loss(logits[[row]], labels[[row]], pad_id=0, smoothing=0.1) for row in (0, 2)
    ]
    assert whole.tokens == 2
    assert whole.smoothed.item() == pytest.approx(sum(p.smoothed.item() for p in parts), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_the_gradient_is_autograds_of_the_plain_formula(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9, requires_grad=True)
    labels = torch.tensor([3, 0, 8, 1, 0, 5])
    q = torch.full((6, 9), smoothing / 8)
    q[range(6), labels] = 1 - smoothing
    plain = -(q * logits.log_softmax(-1)).sum(-1)[labels != 0].sum()
    (expected,) = torch.autograd.grad(plain, logits)
    ours = label_smoothed_loss(logits, labels, pad_id=0, smoothing=smoothing)
    (actual,) = torch.autograd.grad(3.0 * ours.smoothed, logits)
    torch.testing.assert_close(ours.smoothed, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual, 3.0 * expected, rtol=1e-5, atol=1e-6)


def test_the_schedule_by_hand() -> None:
    # d = 64: d^-0.5 = 1/8. warmup 100: 100^-1.5 = 1/1000.
    assert learning_rate(1, 64, 100) == pytest.approx(1 / 8 / 1000)
    assert learning_rate(50, 64, 100) == pytest.approx(50 / 8 / 1000)
    assert learning_rate(100, 64, 100) == pytest.approx(1 / 80)  # both arms meet
    assert learning_rate(400, 64, 100) == pytest.approx(1 / 160)
    # The paper's own: d = 512, warmup 4000, peak 512^-0.5 * 4000^-0.5 = 6.99e-4
    assert learning_rate(4000, 512, 4000) == pytest.approx(6.9877e-4, rel=1e-4)
    assert learning_rate(400, 64, 100, factor=2.0) == pytest.approx(1 / 80)


def test_it_rises_to_its_peak_at_the_end_of_the_warm_up_and_falls() -> None:
    rates = [learning_rate(step, 512, 40) for step in range(1, 200)]
    peak = rates.index(max(rates)) + 1
    assert peak == 40
    assert rates[: peak - 1] == sorted(rates[: peak - 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize(("step", "warmup"), [(0, 10), (-1, 10), (1, 0)])
def test_steps_count_from_one(step: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        learning_rate(step, 512, warmup)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    plot(tmp_path / "rate.png", d_model=512, warmup_steps=400, steps=2000)
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")

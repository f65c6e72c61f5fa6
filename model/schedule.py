"""The warm-up schedule (Vaswani et al. 2017, section 5.3, equation 3)."""

from __future__ import annotations

from pathlib import Path


def learning_rate(step: int, d_model: int, warmup_steps: int, factor: float = 1.0) -> float:
    """d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), times ``factor``.

    Linear up to its peak at ``warmup_steps``, then falling with the root of the step.
    Steps count from 1.
    """
    if step < 1 or warmup_steps < 1:
        msg = f"step {step} and warmup_steps {warmup_steps} count from 1"
        raise ValueError(msg)
    return float(factor * d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5))


def plot(path: Path, *, d_model: int, warmup_steps: int, steps: int, factor: float = 1.0) -> None:
    """Write a PNG of the learning rate over steps 1..``steps``."""
    from matplotlib.figure import Figure  # noqa: PLC0415  heavy, and only this command draws

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    every = range(1, steps + 1)
    axes.plot(every, [learning_rate(step, d_model, warmup_steps, factor) for step in every])
    axes.axvline(warmup_steps, color="grey", linestyle=":", label=f"warm-up ends: {warmup_steps}")
    axes.set(
        title=f"Warm-up schedule, d_model {d_model}, factor {factor:g}",
        xlabel="step",
        ylabel="learning rate",
    )
    axes.legend()
    figure.savefig(path, dpi=120)

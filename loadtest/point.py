"""What one load showed: percentiles, throughput, goodput, wrong answers, our own lateness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from hdrh.histogram import HdrHistogram

from loadtest.generator import Generated, Load, Outcome
from loadtest.reference import Reference

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)
_LONGEST_MICROSECONDS = 600_000_000
_DIGITS = 3
_REFUSED = {"RESOURCE_EXHAUSTED", "UNAVAILABLE"}
# A generator that is this share of the objective late measures itself.
_LATE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of seconds, by HdrHistogram with three significant digits."""

    count: int
    mean: float
    percentiles: dict[str, float]

    def at(self, percentile: float) -> float:
        """Seconds at one of :data:`PERCENTILES`."""
        return self.percentiles[f"p{percentile:g}"]


@dataclass(frozen=True, slots=True)
class Point:
    """One load, its warm-up cut off. Seconds, and requests a second."""

    rate: float
    seconds: float
    offered: int
    answered: int
    refused: int
    failed: int
    codes: dict[str, int]
    wrong: int
    within: int
    """Right answers within the objective."""
    slo_seconds: float
    throughput: float
    """Answers that came while requests were sent."""
    goodput: float
    """Right answers within the objective."""
    latency: Spread
    """From when a request was due to its answer; of those answered."""
    first_token: Spread
    """From when a stream was due to its first piece."""
    inter_token: Spread
    """Mean time between two tokens of a stream, one value a stream."""
    lateness: Spread
    """How long after it was due a request was sent: the generator's own fault."""
    generator_cores: float
    server_cpu_ms: float | None = None
    """CPU time of the server for each request that was sent, warm-up and all; of ours alone."""

    @property
    def holds(self) -> bool:
        """Whether 99 % of what was offered was answered rightly within the objective."""
        return self.offered > 0 and self.within >= 0.99 * self.offered

    @property
    def wrong_per_million(self) -> float:
        """Wrong answers in a million."""
        return self.wrong / max(1, self.answered) * 1e6

    @property
    def trustworthy(self) -> bool:
        """Whether requests were sent about when they were due."""
        return self.lateness.count > 0 and self.lateness.at(99) <= _LATE_SHARE * self.slo_seconds

    def as_json(self) -> dict[str, object]:
        """Everything."""
        more = {
            "holds": self.holds,
            "wrong_per_million": self.wrong_per_million,
            "trustworthy": self.trustworthy,
        }
        return asdict(self) | more


def summarise(
    load: Load,
    generated: Generated,
    reference: Reference | None,
    *,
    warmup_seconds: float,
    slo_seconds: float,
) -> Point:
    """The load's figures.

    Args:
        load: what was sent.
        generated: what became of it.
        reference: what each of its sentences must become; None = nobody knows.
        warmup_seconds: what was due before does not count.
        slo_seconds: an answer that took longer is no good.
    """
    outcomes = [one for one in generated.outcomes if one.due >= warmup_seconds]
    seconds = load.seconds - warmup_seconds
    answered = [one for one in outcomes if one.code == "OK"]
    right = [one for one in answered if reference is None or _is_right(one, reference)]
    within = sum(one.ended - one.due <= slo_seconds for one in right)
    codes = Counter(one.code for one in outcomes)
    refused = sum(count for code, count in codes.items() if code in _REFUSED)
    done = sum(
        one.code == "OK" and warmup_seconds <= one.ended < load.seconds
        for one in generated.outcomes
    )
    streams = [one for one in answered if one.first is not None]
    return Point(
        rate=load.rate,
        seconds=seconds,
        offered=len(outcomes),
        answered=len(answered),
        refused=refused,
        failed=len(outcomes) - len(answered) - refused,
        codes=dict(codes),
        wrong=len(answered) - len(right),
        within=within,
        slo_seconds=slo_seconds,
        throughput=done / seconds,
        goodput=within / seconds,
        latency=spread(one.ended - one.due for one in answered),
        first_token=spread(one.first - one.due for one in streams if one.first is not None),
        inter_token=spread(_inter_token(streams)),
        lateness=spread(one.sent - one.due for one in outcomes),
        generator_cores=generated.cpu_seconds / load.seconds,
    )


def spread(seconds: Iterable[float]) -> Spread:
    """Percentiles of times."""
    histogram = HdrHistogram(1, _LONGEST_MICROSECONDS, _DIGITS)
    for value in seconds:
        histogram.record_value(min(_LONGEST_MICROSECONDS, max(1, round(value * 1e6))))
    count = histogram.get_total_count()
    if not count:
        return Spread(0, 0.0, {f"p{one:g}": 0.0 for one in PERCENTILES})
    values = histogram.get_percentile_to_value_dict(PERCENTILES)  # one pass; it is slow in Python
    found = {f"p{one:g}": values[one] / 1e6 for one in PERCENTILES}
    return Spread(count, histogram.get_mean_value() / 1e6, found)


def _is_right(one: Outcome, reference: Reference) -> bool:
    known = reference.streamed if one.streamed else reference.unary
    return one.answer == known[one.sentence]


def _inter_token(streams: list[Outcome]) -> Iterable[float]:
    for one in streams:
        if one.first is not None and one.last is not None and one.tokens > 1:
            yield (one.last - one.first) / (one.tokens - 1)

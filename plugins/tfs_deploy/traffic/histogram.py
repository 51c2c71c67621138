"""Percentiles of latencies in constant memory.

The Python package of HdrHistogram would bring pbr and setuptools into every installation, for what takes 20 lines here.
"""

from __future__ import annotations

import math

# A percentile is at most this factor too high; a latency from 1 microsecond to 1 hour falls into one of 1,111 buckets.
GROWTH = 1.02
_SMALLEST_SECONDS = 1e-6
_LOG_GROWTH = math.log(GROWTH)


class LatencyHistogram:
    """Counts of latencies in buckets of which each is 2 percent wider than the one below."""

    __slots__ = ("_buckets", "count", "longest")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.longest = 0.0

    def record(self, seconds: float) -> None:
        """Count one latency in seconds."""
        bucket = math.ceil(math.log(max(seconds, _SMALLEST_SECONDS) / _SMALLEST_SECONDS) / _LOG_GROWTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def add(self, other: LatencyHistogram) -> None:
        """Count everything that `other` has counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.longest = max(self.longest, other.longest)

    def percentile(self, share: float) -> float:
        """Return the seconds that `share` (0 to 1) of the latencies do not exceed; 0 without any."""
        rank = max(1, math.ceil(share * self.count))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(_SMALLEST_SECONDS * GROWTH**bucket, self.longest)
        return 0.0

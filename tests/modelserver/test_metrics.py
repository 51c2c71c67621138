"""Counts that a reload tells."""

from __future__ import annotations

from tfs_deploy.modelserver import metrics
from tfs_deploy.modelserver.metrics import Metric


def test_only_the_first_labels_of_a_counter_count(monkeypatch):
    counter, histogram = Metric("/test/count", "counter", "path"), Metric("/test/time", "histogram", "path")
    monkeypatch.setattr(metrics, "_ALL", (counter, histogram))
    monkeypatch.setattr(metrics, "_state", metrics._State(on=True))
    assert metrics.counts(["/test/count", "/test/none"]) == {"/test/count": 0, "/test/none": 0}
    for metric in (counter, histogram):
        metric.add(("b",), 5)
        metric.add(("a",), 2)
        metric.add(("a",), 1)
    assert metrics.counts(["/test/count", "/test/time"]) == {"/test/count": 3, "/test/time": 0}

"""What gateways count about a model, read from their Prometheus metrics, as the traffic of its versions.

A gateway answers a request from the stable version where the canary fails, so the failures of a canary stand in a
counter of their own and not among the replies.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tfs_deploy.deployment.bake_decision import Traffic
from tfs_deploy.errors import CorruptModel, InvalidInput, MissingExtra, Permanent, TFSDeployError, Unreachable

_PREFIX = "tfs_deploy_gateway_"
_REPLIES = f"{_PREFIX}requests_total"
_CANARY_FAILURES = f"{_PREFIX}canary_fell_back_total"
_LATENCY = f"{_PREFIX}stage_seconds_bucket"
# Without the time that a client takes to send, and that processors take.
_STAGE = "predict"
_NAMES = frozenset({_REPLIES, _CANARY_FAILURES, _LATENCY})
# The model refuses the input, or it or its server fails, or it answers too late.
_FAULTS = frozenset({"422", "500", "502", "504"})
# The servers are busy, or none serves the label at the moment.
_UNDECIDED = frozenset({"429", "503"})
_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 16 << 20

Fetch = Callable[[str], str]
# The name of a metric and its labels but the model: ``NAME label=canary status=200 version=3``. No value has a blank.
Series = str


@dataclass(frozen=True, slots=True)
class GatewayCounts:
    """The counters of one model in one gateway at one moment."""

    values: dict[Series, float]

    def since(self, before: GatewayCounts) -> GatewayCounts:
        """Return the counts after `before`; a counter that went back began anew, because the gateway restarted."""
        changes = {
            series: value - before.values.get(series, 0.0) if value >= before.values.get(series, 0.0) else value
            for series, value in self.values.items()
        }
        return GatewayCounts(changes)


@dataclass(frozen=True, slots=True)
class ComparedTraffic:
    """The traffic of the canary and the stable version in all gateways; `missing` names what was not measured."""

    canary: Traffic
    stable: Traffic
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readings:
    """The counts of each gateway that answered, and the error of each other one, by address."""

    counts: dict[str, GatewayCounts]
    errors: dict[str, str] = field(default_factory=dict)


def check_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses of metrics, without duplicates; raise InvalidInput for none, or for one that is no URL."""
    checked = tuple(dict.fromkeys(address.strip() for address in addresses if address.strip()))
    if not checked:
        raise InvalidInput(
            "The bake has no source of metrics.", "Name the metrics of every gateway, e.g. http://gateway:8080/metrics."
        )
    for address in checked:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            shown = f"{parts.scheme}://..." if "@" in address else address
            raise InvalidInput(
                f"The address of metrics {shown!r} is not usable.",
                "Write for example http://gateway:8080/metrics, without a user or a password.",
            )
    return checked


def http_fetch(api_key: str = "") -> Fetch:
    """Return a function that gets the text at a URL, within 5 s; `api_key` is one of the gateway's."""

    def fetch(address: str) -> str:
        request = urllib.request.Request(address, headers={"X-API-Key": api_key} if api_key else {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:  # noqa: S310 - see check_addresses
                return bytes(reply.read(_MOST_BYTES)).decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            raise Permanent(
                f"The gateway answered {address} with status {error.code}.",
                "Check the address and the API key: metrics are at /metrics.",
            ) from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"The metrics at {address} cannot be read: {error}.", "Check the gateway.") from error

    return fetch


def read_counts(addresses: Iterable[str], model: str, fetch: Fetch) -> Readings:
    """Read every gateway once; one that cannot be read is named, and never raised."""
    counts: dict[str, GatewayCounts] = {}
    errors: dict[str, str] = {}
    for address in addresses:
        try:
            counts[address] = parse_counts(fetch(address), model)
        except MissingExtra:
            raise
        except TFSDeployError as error:
            errors[address] = error.cause.rstrip(".")
    return Readings(counts, errors)


def parse_counts(text: str, model: str) -> GatewayCounts:
    """Return the counts of `model` in a text of Prometheus' format; raise CorruptModel if it is none."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ModuleNotFoundError as error:
        raise MissingExtra("prometheus_client", "sync") from error
    values: dict[Series, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name in _NAMES and labels.get("model") == model and labels.get("stage", _STAGE) == _STAGE:
                    values[_series(sample.name, labels)] = sample.value
    except ValueError as error:
        raise CorruptModel(f"The metrics are not in Prometheus' text format: {error}.", "Check the address.") from error
    return GatewayCounts(values)


def compare(before: Readings, after: Readings, *, label: str, canary: int, stable: int) -> ComparedTraffic:
    """Return the traffic between two readings; `label` is the canary's, `canary` and `stable` are versions."""
    missing = [
        f"{address} ({after.errors.get(address) or before.errors.get(address) or 'it was not read'})"
        for address in sorted({*before.counts, *before.errors, *after.counts, *after.errors})
        if address not in before.counts or address not in after.counts
    ]
    tally = _Tally(label, str(canary), str(stable))
    for address in sorted(before.counts.keys() & after.counts.keys()):
        for series, value in after.counts[address].since(before.counts[address]).values.items():
            name, *labels = series.split(" ")
            tally.add(name, dict(label.split("=", 1) for label in labels), value)
    return ComparedTraffic(tally.canary(), tally.stable(), (*missing, *tally.strange()))


def _series(name: str, labels: Mapping[str, str]) -> Series:
    return " ".join([name, *(f"{key}={value}" for key, value in sorted(labels.items()) if key != "model")])


class _Tally:
    """Adds up what all gateways counted."""

    def __init__(self, label: str, canary: str, stable: str) -> None:
        self._label = label
        self._versions = {"canary": canary, "stable": stable}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._latency: dict[str, dict[float, float]] = {"canary": {}, "stable": {}}
        self._strange: set[str] = set()

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Add one series."""
        if name == _LATENCY:
            # Empty buckets too: the bucket below a quantile is its lower bound.
            self._add_latency(labels, value)
        elif not value:
            return
        elif name == _CANARY_FAILURES:
            self._count("canary", labels["status"], value)
        else:
            self._add_replies(labels, value)

    def canary(self) -> Traffic:
        """Return the canary's traffic."""
        return self._traffic("canary")

    def stable(self) -> Traffic:
        """Return the stable version's traffic."""
        return self._traffic("stable")

    def strange(self) -> tuple[str, ...]:
        """Return what speaks against the comparison."""
        return tuple(sorted(self._strange))

    def _add_replies(self, labels: Mapping[str, str], value: float) -> None:
        version, status = labels.get("version", ""), labels["status"]
        side = "canary" if labels.get("label") == self._label else "stable"
        # A request that failed before a version answered has no version: it counts for the model's own label.
        if version not in ("", self._versions[side]):
            self._strange.add(f"version {version} answered as the {side} version")
            return
        self._count(side, status, value)

    def _add_latency(self, labels: Mapping[str, str], value: float) -> None:
        for side, version in self._versions.items():
            if labels.get("version") == version:
                upper, latency = float(labels["le"]), self._latency[side]
                latency[upper] = latency.get(upper, 0.0) + value

    def _count(self, side: str, status: str, value: float) -> None:
        if status.startswith("2"):
            self._counts[side, "answered"] += round(value)
        elif status in _FAULTS:
            self._counts[side, "failed"] += round(value)
        elif status in _UNDECIDED:
            self._counts[side, "undecided"] += round(value)

    def _traffic(self, side: str) -> Traffic:
        latency = {upper: round(count) for upper, count in self._latency[side].items()}
        answered, failed, undecided = (self._counts[side, kind] for kind in ("answered", "failed", "undecided"))
        return Traffic(answered, failed, undecided, latency)

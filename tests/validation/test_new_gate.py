"""A new gate takes one class, listed in the registry: its keys, its messages, its order and its metrics follow."""

from __future__ import annotations

import msgspec
import pytest

from fakes import HALF_PLUS_TWO, FakeClient, FakeClock, FakeModelServer, FakeVersion
from saved_model_files import write_saved_model
from tfs_deploy.errors import InvalidInput
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.validation import gates as registry
from tfs_deploy.validation.config import Gates, gates_from, read_gates
from tfs_deploy.validation.gate import Gate, LiveVersion, Outcome, Worse
from tfs_deploy.validation.report import Verdict
from tfs_deploy.validation.runner import prepare_gates, validate_replicas, worst_metrics


class SizeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: int
    sizes: str = ""
    compare: bool = False


class SizeGate(Gate[SizeOptions, int]):
    """The files of the version are not larger than a limit."""

    name = "size"
    options = SizeOptions
    default = None
    paths = ("sizes",)
    metrics = {"largest_file": Worse.HIGHER}  # noqa: RUF012

    def prepare(self, options, files):
        if options.limit < 1:
            raise InvalidInput("The limit is not positive.", "Set size.limit.")
        return max(entry.size for entry in files.manifest.files)

    def check(self, options, prepared, candidate):
        size = prepared + len(candidate.client.target)
        verdict = Verdict.PASS if size <= options.limit else Verdict.FAIL
        return Outcome(verdict, f"the largest file has {prepared} bytes", {"largest_file": float(size)})

    def compares_live(self, options):
        return options.compare


@pytest.fixture(autouse=True)
def with_size_gate(monkeypatch):
    monkeypatch.setattr(registry, "GATES", (SizeGate(), *registry.GATES))


def test_its_key_is_read_and_named_in_messages(tmp_path):
    file = tmp_path / "gates.yaml"
    file.write_text("size: {limit: 3, sizes: sizes.csv}\n")
    options = read_gates(file).options["size"]
    assert options == SizeOptions(limit=3, sizes=str(tmp_path / "sizes.csv"))
    assert "size" not in Gates().options
    with pytest.raises(InvalidInput, match=r"`limits`.*Known keys: size\{limit, sizes, compare\}, signature"):
        gates_from({"size": {"limits": 3}})


def test_it_runs_in_its_place_and_its_metric_is_reported(tmp_path):
    manifest = manifests.read(write_saved_model(tmp_path / "model", signatures={"serving_default": HALF_PLUS_TWO}))
    clients = {}
    for target in ("a:8500", "longer:8500"):
        server = FakeModelServer(target)
        server.put("/models/m", 1, FakeVersion())
        clients[target] = FakeClient(server)
        clients[target].reload(to_proto([ModelEntry("m", "/models/m", (1,), {})]), timeout=1.0)

    def report(limit: int):
        prepared = prepare_gates(manifest, gates_from({"size": {"limit": limit, "compare": True}}), lambda path: b"")
        live = {"a:8500": LiveVersion(clients["a:8500"], 1)}
        return validate_replicas(clients, "m", 1, gates=prepared, live=live, clock=FakeClock())

    passed = report(1 << 30)
    assert passed.verdict is Verdict.PASS
    assert [check.gate for check in passed.checks][:3] == ["size", "signature", "prediction"]
    assert worst_metrics(passed)["largest_file"] == max(
        check.measured.get("largest_file", 0) for check in passed.checks
    )
    assert passed.compared_with == (0, 1)
    assert report(1).verdict is Verdict.FAIL
    with pytest.raises(InvalidInput, match=r"Set size\.limit"):
        report(0)

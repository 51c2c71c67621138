"""What every ServingClient does, whatever stands behind it.

A test module subclasses `ServingClientSuite` and defines the fixture `serving`, which yields a `Serving`: a client, and
a hand on the files of a fresh model server (no configuration, labels for unavailable versions allowed) whose versions
all compute y = x / 2 + 2 (DT_FLOAT, shape [?]) under ``serving_default``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput, ModelServerError, NotFound
from tfs_deploy.serving.base_client import ServingClient
from tfs_deploy.serving.codec import messages
from tfs_deploy.serving.config import ModelEntry, to_proto
from tfs_deploy.serving.replies import VersionState

X = np.array([1.0, 2.0], dtype=np.float32)
Y = np.array([2.5, 3.0], dtype=np.float32)
SECONDS = 20.0


class Serving(Protocol):
    """One model server and a client of it."""

    client: ServingClient

    def base_path(self, model: str) -> str:
        """Return the absolute base path of `model`, as the server sees it."""

    def put(self, model: str, version: int, *, broken: bool = False) -> None:
        """Write a version of `model`; a broken one cannot be loaded."""

    def settle(self, model: str, version: int) -> None:
        """Return when `version` is AVAILABLE or END."""


def entry(serving: Serving, model: str, *versions: int, **labels: int) -> ModelEntry:
    return ModelEntry(model, serving.base_path(model), versions, labels)


def reload(serving: Serving, *entries: ModelEntry) -> None:
    """Load `entries` and wait for every version they list."""
    serving.client.reload(to_proto(entries), timeout=SECONDS)
    for item in entries:
        for version in item.versions:
            serving.settle(item.name, version)


def states(serving: Serving, model: str) -> dict[int, VersionState]:
    return {row.version: row.state for row in serving.client.status(model, timeout=SECONDS)}


@pytest.fixture
def model() -> str:
    """The name of the model; a test module whose server outlives a test overrides it."""
    return "m"


@pytest.fixture
def loaded(serving: Serving, model: str) -> Serving:
    """Versions 1 and 2 of `model` AVAILABLE, `stable` on 1."""
    serving.put(model, 1)
    serving.put(model, 2)
    reload(serving, entry(serving, model, 1, 2))
    reload(serving, entry(serving, model, 1, 2, stable=1))
    return serving


class ServingClientSuite:
    def test_unknown_model_and_version_have_no_status(self, loaded: Serving, model: str) -> None:
        assert loaded.client.status("nobody", timeout=SECONDS) == ()
        assert loaded.client.status(model, 9, timeout=SECONDS) == ()

    def test_status_lists_versions_newest_first(self, loaded: Serving, model: str) -> None:
        rows = loaded.client.status(model, timeout=SECONDS)
        assert [(row.version, row.state, row.error_code) for row in rows] == [
            (2, VersionState.AVAILABLE, "OK"),
            (1, VersionState.AVAILABLE, "OK"),
        ]
        assert loaded.client.status(model, 1, timeout=SECONDS) == rows[1:]

    def test_metadata_gives_the_public_signatures_of_the_version_meant(self, loaded: Serving, model: str) -> None:
        by_label = loaded.client.metadata(model, label="stable", timeout=SECONDS)
        assert (by_label.model, by_label.version) == (model, 1)
        signature = by_label.signatures["serving_default"]
        assert {alias: (spec.dtype, spec.shape) for alias, spec in signature.inputs.items()} == {
            "x": ("DT_FLOAT", (None,))
        }
        assert set(signature.outputs) == {"y"}
        assert "__saved_model_init_op" not in by_label.signatures
        assert loaded.client.metadata(model, timeout=SECONDS).version == 2
        assert loaded.client.metadata(model, version=1, timeout=SECONDS).version == 1

    def test_predict_says_which_version_answered(self, loaded: Serving, model: str) -> None:
        for choice, version in (({}, 2), ({"version": 1}, 1), ({"label": "stable"}, 1)):
            answer = loaded.client.predict(model, {"x": X}, **choice, timeout=SECONDS)
            assert (answer.model, answer.version, answer.signature) == (model, version, "serving_default")
            assert answer.outputs["y"].dtype == np.float32
            np.testing.assert_array_equal(answer.outputs["y"], Y)

    def test_predict_takes_what_numpy_makes_an_array_of(self, loaded: Serving, model: str) -> None:
        answer = loaded.client.predict(model, {"x": [np.float32(1), np.float32(2)]}, timeout=SECONDS)
        np.testing.assert_array_equal(answer.outputs["y"], Y)

    def test_an_empty_batch_is_answered(self, loaded: Serving, model: str) -> None:
        answer = loaded.client.predict(model, {"x": X[:0]}, timeout=SECONDS)
        assert answer.outputs["y"].shape == (0,)

    def test_a_label_answers_from_where_it_was_moved(self, loaded: Serving, model: str) -> None:
        seen = []
        for version in (1, 2, 1):
            reload(loaded, entry(loaded, model, 1, 2, stable=version))
            seen += [loaded.client.predict(model, {"x": X}, label="stable", timeout=SECONDS).version for _ in range(2)]
        assert seen == [1, 1, 2, 2, 1, 1]

    def test_outputs_chooses(self, loaded: Serving, model: str) -> None:
        answer = loaded.client.predict(model, {"x": X}, outputs=["y"], timeout=SECONDS)
        assert set(answer.outputs) == {"y"}
        for wrong in (["z"], ["y", "y"], "y z"):
            with pytest.raises(InvalidInput, match=r"outputs .* Name each at most once: y"):
                loaded.client.predict(model, {"x": X}, outputs=wrong, timeout=SECONDS)

    @pytest.mark.parametrize(
        ("choice", "named"),
        [({"version": 9}, "9"), ({"label": "nowhere"}, "nowhere"), ({"signature": "zz"}, "zz")],
    )
    def test_naming_what_is_not_there_is_not_found(self, loaded: Serving, model: str, choice: dict, named: str) -> None:
        with pytest.raises(NotFound, match=named):
            loaded.client.predict(model, {"x": X}, **choice, timeout=SECONDS)

    def test_an_unknown_model_is_not_found(self, loaded: Serving, model: str) -> None:
        with pytest.raises(NotFound, match="nobody"):
            loaded.client.predict("nobody", {"x": X}, timeout=SECONDS)
        with pytest.raises(NotFound, match="nobody"):
            loaded.client.metadata("nobody", label="stable", timeout=SECONDS)

    @pytest.mark.parametrize(
        ("inputs", "complaint"),
        [
            ({"x": np.array([1.0])}, "must be DT_FLOAT, but DT_DOUBLE"),
            ({"x": np.array([1], dtype=np.int32)}, "must be DT_FLOAT, but DT_INT32"),
            ({"x": np.array([b"1"])}, "must be DT_FLOAT, but DT_STRING"),
            ({"x": np.float32(1)}, "must have 1 dimensions"),
            ({"x": X.reshape(1, 2)}, "must have 1 dimensions"),
            ({}, "lacks 'x'"),
            ({"x": X, "q": X}, "adds 'q'"),
            ({"q": X}, "lacks 'x' and adds 'q'"),
            ({"x": [[1.0], [1.0, 2.0]]}, "not a tensor"),
            ({"x": {"a": 1}}, "DT_STRING"),
            ({1: X}, "input name 1 is not a str"),
            ([X], "inputs are a list"),
            ({"x": np.array(["2026-01-01"], dtype="datetime64[D]")}, "datetime64"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused_here(
        self, loaded: Serving, model: str, inputs: dict, complaint: str
    ) -> None:
        with pytest.raises(InvalidInput, match=complaint):
            loaded.client.predict(model, inputs, timeout=SECONDS)

    def test_version_and_label_together_are_refused(self, loaded: Serving, model: str) -> None:
        with pytest.raises(InvalidInput, match="Name one of them"):
            loaded.client.predict(model, {"x": X}, version=1, label="stable", timeout=SECONDS)

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), None, True])
    def test_a_timeout_is_a_positive_number(self, loaded: Serving, model: str, timeout: float) -> None:
        with pytest.raises(InvalidInput, match="timeout"):
            loaded.client.status(model, timeout=timeout)

    def test_reload_replaces_everything(self, loaded: Serving, model: str) -> None:
        loaded.put(f"{model}_other", 7)
        reload(loaded, entry(loaded, f"{model}_other", 7))
        assert states(loaded, f"{model}_other") == {7: VersionState.AVAILABLE}
        for version in (1, 2):
            loaded.settle(model, version)
        with pytest.raises(NotFound):
            loaded.client.predict(model, {"x": X}, label="stable", timeout=SECONDS)

    def test_a_label_on_an_unavailable_version_changes_nothing(self, loaded: Serving, model: str) -> None:
        loaded.put(model, 3)
        with pytest.raises(ModelServerError, match=f"FAILED_PRECONDITION.*version 3 of model {model}") as refused:
            loaded.client.reload(to_proto([entry(loaded, model, 1, 2, 3, stable=3)]), timeout=SECONDS)
        assert refused.value.code == "FAILED_PRECONDITION"
        assert states(loaded, model) == {1: VersionState.AVAILABLE, 2: VersionState.AVAILABLE}
        assert loaded.client.predict(model, {"x": X}, label="stable", timeout=SECONDS).version == 1

    def test_a_config_without_a_list_is_refused(self, loaded: Serving, model: str) -> None:
        with pytest.raises(ModelServerError, match="Only ModelConfigList") as refused:
            loaded.client.reload(messages.ModelServerConfig(), timeout=SECONDS)
        assert refused.value.code == "INVALID_ARGUMENT"
        with pytest.raises(InvalidInput, match="not a ModelServerConfig"):
            loaded.client.reload("model_config_list {}", timeout=SECONDS)

    def test_a_broken_version_ends_with_the_servers_words(self, loaded: Serving, model: str) -> None:
        loaded.put(model, 3, broken=True)
        reload(loaded, entry(loaded, model, 1, 2, 3, stable=1))
        (row,) = loaded.client.status(model, 3, timeout=SECONDS)
        assert row.state is VersionState.END
        assert row.error_code != "OK"
        assert row.error_message
        assert loaded.client.predict(model, {"x": X}, timeout=SECONDS).version == 2

    def test_a_closed_client_says_so(self, loaded: Serving, model: str) -> None:
        loaded.client.close()
        with pytest.raises(InvalidInput, match="closed"):
            loaded.client.status(model, timeout=SECONDS)

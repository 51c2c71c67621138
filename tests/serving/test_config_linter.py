"""Configs that TF Serving would take and then punish are refused before they are sent."""

from __future__ import annotations

import pytest

from tfs_deploy.errors import Refused
from tfs_deploy.serving.config import ModelEntry
from tfs_deploy.serving.config_linter import lint


def entry(versions=(1,), labels=None, name="m", base_path="/models/m") -> ModelEntry:
    return ModelEntry(name, base_path, tuple(versions), labels or {})


AVAILABLE = {"m": frozenset({1, 2})}


@pytest.mark.parametrize(
    ("current", "proposed"),
    [
        ([], [entry()]),
        ([entry(labels={"stable": 1})], [entry((1, 3), {"stable": 1})]),
        ([entry((1, 2), {"stable": 1})], [entry((1, 2), {"stable": 2, "previous": 1})]),
        ([entry((1, 2), {"stable": 2})], [entry((2,), {"stable": 2})]),
        ([entry(labels={"stable": 1})], [entry(labels={"stable": 1}), entry(name="n", base_path="gs://b/n")]),
        # A replica that restarted: the label keeps its value, so it may name a version that is not AVAILABLE yet.
        ([entry((1, 9), {"stable": 9})], [entry((1, 9), {"stable": 9})]),
    ],
)
def test_what_the_protocol_sends_is_fine(current, proposed):
    lint(proposed, current=current, available=AVAILABLE)


@pytest.mark.parametrize(
    ("current", "proposed", "words"),
    [
        ([entry(), entry(name="n")], [entry()], "leaves out model 'n'"),
        ([], [entry(base_path="s3://bucket/m")], "s3://"),
        ([], [entry(base_path="models/m")], "relative"),
        ([], [entry(base_path="/nowhere/m")], "does not exist"),
        ([], [entry(versions=())], "no version"),
        ([entry((1, 2), {"stable": 1})], [entry((2,), {"stable": 1})], "does not list"),
        ([entry((1,), {"stable": 1})], [entry((1, 5), {"stable": 5})], "not AVAILABLE"),
        ([entry((1, 2), {"stable": 1})], [entry((2,), {})], "drops version 1"),
        ([entry((1, 2), {"stable": 1})], [entry((2,), {"stable": 2})], "overlap"),
    ],
)
def test_what_would_hurt_is_refused(current, proposed, words):
    with pytest.raises(Refused, match=words):
        lint(proposed, current=current, available=AVAILABLE, path_exists=lambda path: "nowhere" not in path)


def test_a_model_may_be_removed_on_purpose():
    lint([entry()], current=[entry(), entry(name="n")], available=AVAILABLE, removed=frozenset({"n"}))

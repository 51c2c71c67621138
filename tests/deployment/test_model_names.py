"""A model name that is new to a group is said, and one that may be a slip of a known one is named with it."""

from __future__ import annotations

import logging

import pytest

from deployment_names import MODEL
from tfs_deploy.deployment.model_names import new_name, similar_names
from tfs_deploy.deployment.steps.publish import publish
from tfs_deploy.deployment.steps.undeploy import undeploy


@pytest.mark.parametrize("slip", ["Digits", "digts", "digitss", "digets", "dgiits", "idgits", "xdigits", "digit"])
def test_case_or_one_letter_makes_names_similar(slip) -> None:
    assert similar_names(slip, ["digits", "faces"]) == ("digits",)


@pytest.mark.parametrize("other", ["digits", "digits2", "digits_v2", "dgit", "sdigit", "faces", "", "stigid"])
def test_other_names_are_other_models(other) -> None:
    assert similar_names(other, ["digits"]) == ()


def test_numbers_count_models() -> None:
    assert similar_names("m2", ["m1", "m3", "m22"]) == ()


def test_a_first_version_is_logged_and_a_second_is_not(bench, caplog) -> None:
    caplog.set_level(logging.INFO)
    bench.publish("good one")
    assert f"first version of a new model, '{MODEL}', in group 'default'" in caplog.text
    caplog.clear()
    bench.publish("good two")
    assert "new model" not in caplog.text


def test_a_slip_is_a_warning_that_names_the_known_model(bench, caplog) -> None:
    bench.promoted("good one")
    slip = MODEL.replace("plus", "pluss")
    publish(bench.session, bench.staged("good two"), slip)
    assert f"differs by one letter or by case from '{MODEL}'" in caplog.text


def test_a_model_that_was_undeployed_is_known(bench) -> None:
    bench.promoted("good one")
    undeploy(bench.session, MODEL)
    assert new_name(bench.session, MODEL) is None

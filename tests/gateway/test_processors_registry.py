"""What the configuration may name as a processor, and what it is told when it may not."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from tfs_deploy.errors import InvalidInput, MissingExtra
from tfs_deploy.gateway.config import ModelConfig, ProcessorConfig
from tfs_deploy.gateway.processors import registry
from tfs_deploy.gateway.processors.model_processors import ModelProcessors
from tfs_deploy.gateway.processors.registry import BUILT_IN, make_postprocessor, make_processor


class Doubling:
    """A processor of a user's own."""

    def __init__(self, *, by: int = 2) -> None:
        self.by = by

    def preprocess(self, items: Any) -> Any:
        return {"x": np.array(items) * self.by}

    def postprocess(self, outputs: Any) -> Any:
        return outputs["x"].tolist()


class OnlyAfter:
    def postprocess(self, outputs: Any) -> Any:
        return list(outputs)


class Useless:
    pass


def failing() -> Any:
    raise RuntimeError("no model file")


not_callable = 5


def test_a_class_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "of_the_user", sys.modules[__name__])
    made: Any = make_processor(ProcessorConfig(name="of_the_user:Doubling", options={"by": 3}))
    assert made.by == 3
    assert make_postprocessor(ProcessorConfig(name="of_the_user:OnlyAfter")).postprocess({"a": np.zeros(1)}) == ["a"]


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = metadata.EntryPoints([metadata.EntryPoint("double", "of_the_user:Doubling", registry.ENTRY_POINTS)])
    monkeypatch.setitem(sys.modules, "of_the_user", sys.modules[__name__])
    monkeypatch.setattr(registry.metadata, "entry_points", lambda *, group: points.select(group=group))
    made: Any = make_processor(ProcessorConfig(name="double"))
    assert made.by == 2


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pictures", {}, "There is no processor called 'pictures'"),
        ("no_such_module:Thing", {}, "'no_such_module'"),
        ("of_the_user:Missing", {}, "Missing"),
        ("of_the_user:", {}, "of_the_user:"),
        ("of_the_user:not_callable", {}, "is a int"),
        ("of_the_user:Useless", {}, "without a method postprocess"),
        ("of_the_user:OnlyAfter", {}, "has no method preprocess"),
        ("of_the_user:failing", {}, "RuntimeError: no model file"),
        ("of_the_user:Doubling", {"bye": 3}, "bye"),
        ("classification", {}, "has no method preprocess"),
        ("boxes", {"stride": "four"}, "stride"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], said: str
) -> None:
    monkeypatch.setitem(sys.modules, "of_the_user", sys.modules[__name__])
    with pytest.raises(InvalidInput) as caught:
        make_processor(ProcessorConfig(name=name, options=options))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_pillow_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("tfs_deploy.gateway.processors.")]:
        if module.rsplit(".", 1)[-1] in ("images", "pictures", "fitting", "boxes"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"pip install .*pillow"):
        make_processor(ProcessorConfig(name="images"))


def test_only_pictures_need_pillow() -> None:
    """A gateway for texts starts without it, and none of the processors brings TensorFlow along."""
    code = (
        "import sys; from tfs_deploy.gateway.config import ProcessorConfig as C\n"
        "from tfs_deploy.gateway.processors.registry import make_postprocessor as make\n"
        "make(C(name='tensors')); make(C(name='classification')); make(C(name='text', options=dict("
        "input='x', encode='strings')))\n"
        "assert 'PIL' not in sys.modules, 'PIL'\n"
        "make(C(name='images')); make(C(name='boxes'))\n"
        "assert 'tensorflow' not in sys.modules, 'tensorflow'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_a_processor_that_goes_by_the_signature_stays_out_of_the_pool() -> None:
    model = ModelConfig(processor=ProcessorConfig(name="tensors", in_pool=True))
    with pytest.raises(InvalidInput, match="'tensors' of model 'm' needs the model's signature"):
        ModelProcessors("m", model)
    inputs = {"x": {"dtype": "float32"}}
    model = ModelConfig(processor=ProcessorConfig(name="tensors", options={"inputs": inputs}, in_pool=True))
    assert sorted(ModelProcessors("m", model).pooled) == ["m postprocess", "m preprocess"]


def test_every_built_in_is_there() -> None:
    assert sorted(BUILT_IN) == ["boxes", "classification", "images", "tensors", "text"]

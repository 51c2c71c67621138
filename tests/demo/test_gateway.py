"""The gateway at the end of the demo: it starts, it gets the digits as they are, and it ends whatever happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.running import left_running, still_running
from tfs_deploy.demo.gateway_process import classify_pngs, configuration, gateway, write_png
from tfs_deploy.errors import ModelServerError, Unreachable
from tfs_deploy.gateway.config import ProcessorConfig
from tfs_deploy.gateway.processors.protocol import Blob
from tfs_deploy.gateway.processors.registry import make_processor

NOBODY = "127.0.0.1:1"


def test_a_picture_becomes_the_numbers_that_it_was_made_of(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 17, (8, 8, 1)).astype(np.float32)
    write_png(image, tmp_path / "digit.png")
    spec = configuration([NOBODY], "digits")["models"]["digits"]["processor"]
    processor = make_processor(ProcessorConfig(name=spec["name"], options=spec["options"]))
    made = processor.preprocess([Blob((tmp_path / "digit.png").read_bytes())])
    # A PNG has 256 greys for the 17 values.
    np.testing.assert_allclose(made["images"], image[None], atol=0.04)


def test_it_ends_with_its_processes_when_the_demo_fails(tmp_path: Path) -> None:
    def demo() -> None:
        with gateway([NOBODY], "digits", tmp_path) as url:
            assert url.startswith("http://127.0.0.1:")
            # The gateway and the process that decodes pictures, at least.
            assert len(still_running(tmp_path)) >= 2
            raise RuntimeError("the demo fails")

    with pytest.raises(RuntimeError, match="the demo fails"):
        demo()
    assert left_running(tmp_path) == []


def test_nobody_behind_it_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    with (
        gateway([NOBODY], "digits", tmp_path) as url,
        pytest.raises(ModelServerError, match="answers with 503: No model server answers"),
    ):
        classify_pngs(url, "digits", (5,), tmp_path / "gateway")
    with pytest.raises(Unreachable, match="does not answer"):
        classify_pngs(url, "digits", (5,), tmp_path / "gateway")


def test_a_gateway_that_cannot_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelServerError, match="exit code 2"), gateway(["no address"], "digits", tmp_path):
        pass
    assert left_running(tmp_path) == []

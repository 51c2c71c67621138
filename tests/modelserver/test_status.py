"""Texts of TensorFlow 2.20, whatever TensorFlow runs here."""

from __future__ import annotations

import pytest

from tfs_deploy.modelserver import status
from tfs_deploy.modelserver.status import Code, StatusError, of_exception


class OpError(Exception):
    """Has what tf.errors.OpError has."""

    error_code = 3

    def __init__(self, message):
        super().__init__(message)
        self.message = message


def test_the_image_formats_of_2_20():
    there = "Unknown image file format. One of JPEG, PNG, GIF, BMP, WebP required."
    converted = of_exception(OpError(there.replace("PNG", "JPEG XL, PNG")))
    assert isinstance(converted, StatusError)
    assert (converted.code, converted.message) == (Code.INVALID_ARGUMENT, there)
    assert status.runtime_message(there) == there


@pytest.mark.parametrize(
    ("producer", "text", "blamed"),
    [
        (2288, "Node 'a' is not unique", False),
        (2309, "Node 'a' is not unique", False),
        (2310, "Node 'a' is not unique", True),
        (2310, "Op type not registered 'A' in binary running on b.", False),
    ],
)
def test_a_newer_exporter_is_named_as_the_cause(producer, text, blamed):
    message = status.import_message(text, producer)
    assert message.startswith(f"Converting GraphDef to Graph has failed with an error: '{text}' The") is blamed
    assert (message == text) is not blamed
    # TensorFlow 2.20 has said it already.
    assert status.import_message(message, producer) == message

"""Messages as text, in the words of C++ protobuf."""

from __future__ import annotations

import pytest

from tfs_deploy.modelserver.inference.examples import debug_string
from tfs_deploy.serving.codec import messages


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("float_val", 0.0, "0"),
        ("float_val", -0.0, "-0"),
        ("float_val", 2.5, "2.5"),
        ("float_val", 0.1, "0.1"),
        ("float_val", 1 / 3, "0.333333343"),
        ("float_val", 1e6, "1e+06"),
        ("float_val", 16777215.0, "16777215"),
        ("float_val", float("nan"), "nan"),
        ("float_val", float("-inf"), "-inf"),
        ("double_val", 1e6, "1000000"),
        ("double_val", 0.1, "0.1"),
        ("double_val", 0.1 + 0.2, "0.30000000000000004"),
        ("double_val", 1e300, "1e+300"),
        ("int_val", 10, "10"),
    ],
)
def test_numbers(field, value, text):
    proto = messages.TensorProto()
    getattr(proto, field).append(value)
    assert debug_string(proto) == f"{field}: {text}\n"


def test_text_is_escaped_and_no_number_in_it_is_touched():
    signature = messages.SignatureDefMap().signature_def["s"]
    signature.method_name = "ü\nfloat_val: 0.0"
    assert debug_string(signature) == 'method_name: "\\303\\274\\nfloat_val: 0.0"\n'

"""What the TensorFlow 2.20 inside TF Serving 2.20 says, where the TensorFlow that runs here says it otherwise.

Compared by running some 400 requests and 50 damaged versions on both. With TensorFlow 2.20 nothing is changed.
"""

from __future__ import annotations

# `TF_GRAPH_DEF_VERSION` of TensorFlow 2.20.0, and how far above it a producer may be without being blamed.
GRAPH_DEF_VERSION = 2288
_FORWARD_COMPATIBLE = 21
_BLAMED = "Converting GraphDef to Graph has failed with an error: "
# Looked up before the graph is converted, by `AddDefaultAttrsToGraphDef`.
_BEFORE_CONVERSION = "Op type not registered "

# 2.21 knows one more image format.
_OTHER_WORDS = (("One of JPEG, JPEG XL, PNG,", "One of JPEG, PNG,"),)


def message(text: str) -> str:
    """Return the message of any operation."""
    for here, there in _OTHER_WORDS:
        text = text.replace(here, there)
    return text


def import_message(text: str, producer: int) -> str:
    """Return the message for a GraphDef of version `producer` that is no graph: a newer exporter is blamed."""
    newer = producer - GRAPH_DEF_VERSION > _FORWARD_COMPATIBLE
    if not newer or text.startswith((_BLAMED, _BEFORE_CONVERSION)):
        return text
    return (
        f"{_BLAMED}'{text}' The binary trying to import the GraphDef was built when GraphDef version was "
        f"{GRAPH_DEF_VERSION}. The GraphDef was produced by a binary built when GraphDef version was {producer}. The "
        "difference between these versions is larger than TensorFlow's forward compatibility guarantee, and might be "
        "the root cause for failing to import the GraphDef."
    )

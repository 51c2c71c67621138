"""From a training checkpoint to a version that answers production traffic in TensorFlow Serving."""

from __future__ import annotations

__version__ = "0.1.0"

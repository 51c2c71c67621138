"""The gates, in the order in which a reader wants to learn of a fault.

First what the version is, then whether it runs, what it answers, and how good it is. The keys of a gates file, the
known keys in messages and the order of a report come from this tuple.
"""

from __future__ import annotations

from typing import Any

from tfs_deploy.validation.gate import Gate
from tfs_deploy.validation.gates.accuracy import AccuracyGate
from tfs_deploy.validation.gates.golden import GoldenGate
from tfs_deploy.validation.gates.prediction import PredictionGate
from tfs_deploy.validation.gates.signature import SignatureGate

GATES: tuple[Gate[Any, Any], ...] = (SignatureGate(), PredictionGate(), GoldenGate(), AccuracyGate())

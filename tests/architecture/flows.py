"""How many modules a step of a deploy enters: run every step on a serving group in memory and trace its calls.

    python tests/architecture/flows.py

prints a Markdown table: per step the modules of the package that are entered, those inside `deployment`, and the
distinct functions of `deployment` that are called. A reader who follows the step has to open that many files.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "plugins" / "tfs_deploy"

STEPS = ("publish", "load", "validate", "promote", "rollback")


@dataclass
class Flow:
    """The functions of the package that a step entered, as (module, name and line)."""

    step: str
    functions: set[tuple[str, str]] = field(default_factory=set)

    def modules(self, room: str = "") -> set[str]:
        """Return the modules that were entered, as paths below the package; those of `room` if it is given."""
        return {module for module, _ in self.functions if module.startswith(room)}

    def functions_of(self, room: str) -> set[tuple[str, str]]:
        """Return the functions of `room` that were called."""
        return {each for each in self.functions if each[0].startswith(room)}


def trace(step: str, call: Callable[[], object]) -> Flow:
    """Run `call` and return the functions of the package that it entered, in every thread that it starts."""
    flow, prefix = Flow(step), f"{PACKAGE}/"

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # A lambda or a comprehension belongs to the function around it.
        if event == "call" and code.co_filename.startswith(prefix) and not code.co_name.startswith("<"):
            flow.functions.add((code.co_filename[len(prefix) :], f"{code.co_name}:{code.co_firstlineno}"))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return flow


def step_function(path: str) -> Callable[..., Any]:
    """Return the function that ``module:name`` names."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def flows(paths: dict[str, str] | None = None) -> list[Flow]:
    """Trace every step of the second version of a model; `paths` names the functions of the steps."""
    sys.path[:0] = [str(TESTS), str(PACKAGE.parent)]
    from deployment.conftest import make_bench
    from deployment_names import MODEL

    steps = {name: step_function(path) for name, path in (paths or default_paths()).items()}
    gates = step_function((paths or {}).get("gates", "tfs_deploy.validation.config:Gates"))()
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(Path(folder))
        first = bench.promoted("good one")
        second = first + 1
        calls: dict[str, Callable[[], object]] = {
            "publish": lambda: steps["publish"](bench.session, bench.staged("good two"), MODEL),
            "load": lambda: steps["load"](bench.session, MODEL, second),
            "validate": lambda: steps["validate"](bench.session, MODEL, second, gates),
            "promote": lambda: steps["promote"](bench.session, MODEL, second),
            "rollback": lambda: steps["rollback"](bench.session, MODEL),
        }
        bench.staged("good two")
        return [trace(step, calls[step]) for step in STEPS]


def default_paths() -> dict[str, str]:
    """Return where the steps are."""
    return {step: f"tfs_deploy.deployment.steps.{step}:{step}" for step in STEPS}


def table(traced: list[Flow]) -> str:
    """Return the Markdown table of `traced`."""
    rows = ["| step | modules entered | of them in deployment | functions of deployment |", "|---|---|---|---|"]
    for flow in traced:
        counts = (len(flow.modules()), len(flow.modules("deployment/")), len(flow.functions_of("deployment/")))
        rows.append(f"| {flow.step} | {' | '.join(map(str, counts))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(flows()))

"""What the demo prints: complete, and within 80 columns."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console, RenderableType

from tfs_deploy.demo import show
from tfs_deploy.demo.airflow_process import DagRun, TaskRun
from tfs_deploy.demo.results import Answer, Attempt, Move

RUN = DagRun(
    "retrain_and_deploy", "success", tasks=[TaskRun(f"deploy.{step}", "success", 12.34) for step in show.STEPS]
)


def printed(what: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(what)
    assert max(len(line) for line in text.getvalue().splitlines()) <= 80
    return text.getvalue()


def test_table_of_versions_shows_every_column_in_full() -> None:
    failed = DagRun("retrain_and_deploy", "failed", tasks=RUN.tasks[:-1])
    text = printed(
        show.attempts_tables(
            [
                Attempt(RUN, 1, "sha256:0123456789abcdef", 0.878, "pass", "previous"),
                Attempt(failed, 12, "sha256:abcdef0123456789", 0.048, "inconclusive", ""),
                Attempt(DagRun("retrain_and_deploy", "failed"), None, "", None, "none", ""),
            ]
        )
    )
    for told in ("fingerprint", "accuracy", "validate", "promote", "01234567", "87.8%", "previous", "12.3", "4.8%"):
        assert told in text
    assert "…" not in text


def test_reasons_are_folded_and_not_cut() -> None:
    reason = "Version 3 of model 'digits' failed gate accuracy: accuracy 0.0480 is below the floor 0.8000. " * 3
    text = printed(show.moves_table([Move("12:00:00", "rolled_back", 3, reason)]))
    assert "rolled back" in text
    assert " ".join(text.split()).count("below the floor") == 3


def test_a_digit_is_drawn_in_shades() -> None:
    image = np.zeros((8, 8, 1), np.float32)
    image[0, 0, 0], image[7, 7, 0], image[3, 3, 0] = 16.0, 1.0, 8.0
    lines = show.draw(image).split("\n")
    assert [len(line) for line in lines] == [16] * 8
    assert lines[0].startswith("██ ")
    assert lines[7].endswith(" ░░")
    assert lines[3][6:8] == "▒▒"


def test_a_wrong_answer_shows_the_truth() -> None:
    image = np.zeros((8, 8, 1), np.float32)
    text = printed(show.digits_panel([Answer(image, 7, 7, 0.99, 2), Answer(image, 3, 8, 0.51, 2)], "Digits"))
    assert "7 (99%) ✓" in text
    assert "8 (51%) is 3" in text
    assert "version 2" in text

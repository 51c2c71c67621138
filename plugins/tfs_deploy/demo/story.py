"""The story that the demo tells: two versions go live, a bad one does not, and `stable` goes back and forth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_deploy.demo import findings, pictures, show
from tfs_deploy.demo.airflow_process import AirflowProcess, DagRun
from tfs_deploy.demo.findings import Answer, Attempt
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.store.protocol import StateDocuments

MODEL = "digits"
GROUP = "demo"
RETRAIN = "retrain_and_deploy"
ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Lesson:
    """One training run: what the DAG is asked for, and how a person would say it."""

    title: str
    conf: dict[str, Any]


LESSONS = (
    Lesson("a first model, from 200 examples", {"examples": 200, "epochs": 8}),
    Lesson("a better one, from all 1297", {"examples": 1297, "epochs": 10}),
    Lesson(
        "a broken one, somebody mixed up the labels",
        {"examples": 1297, "epochs": 10, "shuffle_labels": True},
    ),
)
SHOWN = (5, 8, 2, 9, 23)


@dataclass(slots=True)
class Story:
    """Runs the DAGs one after the other and keeps what came of them; `broken` lists what went otherwise."""

    airflow: AirflowProcess
    targets: tuple[str, ...]
    documents: StateDocuments
    progress: show.Progress
    attempts: list[tuple[DagRun, int | None]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    read: tuple[Answer, ...] = ()

    def tell(self) -> None:
        """Tell it all; `broken` is empty afterwards if everything went as it should."""
        for number, lesson in enumerate(LESSONS, start=1):
            self._train(number, lesson)
        first, second, third = (version for _, version in self.attempts)
        self._judge(first, second, third)
        self._roll("Back to the version before", first)
        self._roll("And forward again", second)

    def versions(self) -> list[Attempt]:
        """Return what the record says about each training run, with the labels as they are now."""
        carried = findings.labels(self.targets, MODEL)
        return [
            findings.attempt(
                self.documents,
                GROUP,
                MODEL,
                run,
                version=version,
                carried=carried,
            )
            for run, version in self.attempts
        ]

    def show_to_gateway(self, url: str, directory: Path) -> None:
        """Send the gateway at `url` PNG files of some digits, written to `directory`; `read` is what it answers."""
        self.progress.say(f"It listens on {url}; the pictures are in {directory}.")
        self.read = pictures.read_by_gateway(url, MODEL, SHOWN, directory)
        direct = findings.ask(self.targets[0], MODEL, SHOWN)
        same = [(one.digit, one.version) for one in self.read] == [(one.digit, one.version) for one in direct]
        self._expect(same, "the gateway reads from a picture what the model server reads from numbers")

    def _train(self, number: int, lesson: Lesson) -> None:
        self.progress.chapter(f"Training run {number} of {len(LESSONS)}: {lesson.title}")
        known = findings.known_versions(self.documents, GROUP, MODEL)
        run = self._run(RETRAIN, lesson.conf)
        new = [number for number in findings.known_versions(self.documents, GROUP, MODEL) if number not in known]
        self.attempts.append((run, new[-1] if new else None))
        attempt = self.versions()[-1]
        if attempt.label == "stable":
            self.progress.say(f"Version {attempt.version} is live: accuracy {attempt.accuracy:.1%}.", "green")
        else:
            self.progress.say(f"Refused: {self._refusal(attempt)}", "bold red")
            self.progress.say(f"stable is still version {findings.labels(self.targets, MODEL).get('stable')}.")

    def _refusal(self, attempt: Attempt) -> str:
        rejected = [move for move in findings.moves(self.documents, GROUP, MODEL) if move.action == "rejected"]
        told = [move.reason for move in rejected if move.version == attempt.version]
        return told[-1] if told else attempt.run.failure() or "the run failed; see the log."

    def _judge(self, first: int | None, second: int | None, third: int | None) -> None:
        one, two, three = self.versions()
        self._expect(one.run.state == "success" and one.verdict == "pass", "the first version goes live")
        self._expect(two.run.state == "success" and two.verdict == "pass", "the second version goes live")
        better = two.accuracy is not None and one.accuracy is not None and two.accuracy > one.accuracy
        self._expect(better, "the second version is better than the first")
        self._expect(three.run.state == "failed" and three.verdict == "fail", "the gates refuse the third version")
        self._expect(None not in (first, second, third) and third not in (first, second), "each has its own number")
        self._expect(findings.labels(self.targets, MODEL).get("stable") == second, "stable is still the second version")

    def _roll(self, where: str, expected: int | None) -> None:
        self.progress.chapter(where)
        run = self._run(ROLLBACK, {"model": MODEL, "reason": f"Demo: {where[0].lower()}{where[1:]}."})
        try:
            answering = {findings.ask(target, MODEL, SHOWN[:1])[0].version for target in self.targets}
            version = answering.pop() if len(answering) == 1 else None
        except TFSDeployError as error:
            self.progress.say(str(error), "bold red")
            version = None
        held = run.state == "success" and version == expected
        self._expect(held, f"{where}: stable answers from version {expected}")
        if held:
            self.progress.say(f"stable answers from version {version} now; nothing was loaded or copied.", "green")
        else:
            self.progress.say(run.failure() or f"stable answers from version {version}.", "bold red")

    def _run(self, dag: str, conf: dict[str, Any]) -> DagRun:
        with self.progress.run() as on_task:
            run = self.airflow.run(dag, conf, on_task)
        self.progress.finished(run)
        return run

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)

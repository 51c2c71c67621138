"""The demo's scenario: two versions go live, a bad one is refused, and `stable` is rolled back and forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfs_deploy.demo import results, show
from tfs_deploy.demo.airflow_process import AirflowProcess, DagRun
from tfs_deploy.demo.gateway_process import classify_pngs
from tfs_deploy.demo.results import Answer, Attempt
from tfs_deploy.errors import TFSDeployError
from tfs_deploy.store.protocol import StateDocuments

MODEL = "digits"
GROUP = "demo"
RETRAIN = "retrain_and_deploy"
ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training run: its title and the parameters of the DAG."""

    title: str
    conf: dict[str, Any]


TRAINING_RUNS = (
    TrainingRun("a first model, from 200 examples", {"examples": 200, "epochs": 8}),
    TrainingRun("a better one, from all 1297", {"examples": 1297, "epochs": 10}),
    TrainingRun(
        "a broken one, trained on shuffled labels",
        {"examples": 1297, "epochs": 10, "shuffle_labels": True},
    ),
)
SHOWN_ROWS = (5, 8, 2, 9, 23)


@dataclass(slots=True)
class Scenario:
    """Run the DAGs one after the other; `failures` lists the expectations that did not hold."""

    airflow: AirflowProcess
    targets: tuple[str, ...]
    documents: StateDocuments
    progress: show.Progress
    attempts: list[tuple[DagRun, int | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answers: tuple[Answer, ...] = ()

    def run(self) -> None:
        """Train and deploy three versions, then roll back and forward."""
        for number, training in enumerate(TRAINING_RUNS, start=1):
            self._train(number, training)
        first, second, third = (version for _, version in self.attempts)
        self._check_versions(first, second, third)
        self._roll("Back to the previous version", first)
        self._roll("And forward again", second)

    def versions(self) -> list[Attempt]:
        """Return the record of each training run, with the current labels."""
        labelled = results.labels(self.targets, MODEL)
        return [
            results.attempt(self.documents, GROUP, MODEL, run, version=version, labelled=labelled)
            for run, version in self.attempts
        ]

    def ask_gateway(self, url: str, directory: Path) -> None:
        """Let the gateway at `url` classify PNG files of some digits, written to `directory`; set `answers`."""
        self.progress.say(f"It listens on {url}; the PNG files are in {directory}.")
        self.answers = classify_pngs(url, MODEL, SHOWN_ROWS, directory)
        direct = results.ask(self.targets[0], MODEL, SHOWN_ROWS)
        same = [(reply.digit, reply.version) for reply in self.answers] == [
            (reply.digit, reply.version) for reply in direct
        ]
        self._expect(same, "the gateway answers for a PNG file as the model server does for its numbers")

    def _train(self, number: int, training: TrainingRun) -> None:
        self.progress.section(f"Training run {number} of {len(TRAINING_RUNS)}: {training.title}")
        known = results.known_versions(self.documents, GROUP, MODEL)
        run = self._run(RETRAIN, training.conf)
        new = [number for number in results.known_versions(self.documents, GROUP, MODEL) if number not in known]
        self.attempts.append((run, new[-1] if new else None))
        attempt = self.versions()[-1]
        if attempt.label == "stable":
            self.progress.say(f"Version {attempt.version} is live: accuracy {attempt.accuracy:.1%}.", "green")
        else:
            self.progress.say(f"Refused: {self._refusal(attempt)}", "bold red")
            self.progress.say(f"stable is still version {results.labels(self.targets, MODEL).get('stable')}.")

    def _refusal(self, attempt: Attempt) -> str:
        rejected = [move for move in results.moves(self.documents, GROUP, MODEL) if move.action == "rejected"]
        reasons = [move.reason for move in rejected if move.version == attempt.version]
        return reasons[-1] if reasons else attempt.run.error_text() or "the run failed; see the log."

    def _check_versions(self, first: int | None, second: int | None, third: int | None) -> None:
        one, two, three = self.versions()
        self._expect(one.run.state == "success" and one.verdict == "pass", "the first version goes live")
        self._expect(two.run.state == "success" and two.verdict == "pass", "the second version goes live")
        better = two.accuracy is not None and one.accuracy is not None and two.accuracy > one.accuracy
        self._expect(better, "the second version is better than the first")
        self._expect(three.run.state == "failed" and three.verdict == "fail", "the gates refuse the third version")
        self._expect(None not in (first, second, third) and third not in (first, second), "each has its own number")
        self._expect(results.labels(self.targets, MODEL).get("stable") == second, "stable is still the second version")

    def _roll(self, title: str, expected: int | None) -> None:
        self.progress.section(title)
        run = self._run(ROLLBACK, {"model": MODEL, "reason": f"Demo: {title[0].lower()}{title[1:]}."})
        try:
            answering = {results.ask(target, MODEL, SHOWN_ROWS[:1])[0].version for target in self.targets}
            version = answering.pop() if len(answering) == 1 else None
        except TFSDeployError as error:
            self.progress.say(str(error), "bold red")
            version = None
        holds = run.state == "success" and version == expected
        self._expect(holds, f"{title}: stable answers from version {expected}")
        if holds:
            self.progress.say(f"stable answers from version {version} now; nothing was loaded or copied.", "green")
        else:
            self.progress.say(run.error_text() or f"stable answers from version {version}.", "bold red")

    def _run(self, dag: str, conf: dict[str, Any]) -> DagRun:
        with self.progress.run() as on_task:
            run = self.airflow.run(dag, conf, on_task)
        self.progress.finished(run)
        return run

    def _expect(self, holds: bool, expectation: str) -> None:
        if not holds:
            self.failures.append(expectation)

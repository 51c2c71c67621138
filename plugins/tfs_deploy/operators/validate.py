"""Step validate: the gates on every replica, or in containers of images; a version that fails is rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import InvalidInput
from tfs_deploy.operators.base import TFServingOperator, gates_of, translate_errors, version_of
from tfs_deploy.operators.containers import ImageValidation

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tfs_deploy.containers.options import ServerOptions
    from tfs_deploy.validation.report import ValidationReport


class ValidateModelVersionOperator(TFServingOperator):
    """Validate a loaded version; fails with one sentence that names the gate and its numbers.

    With `image` it validates in a throw-away container of each image instead of on the replicas, for example the image
    that production runs and the next one: a version of the store, loaded or not, or a `saved_model` that is not
    published yet. An inconclusive verdict (a replica that does not answer) is retried, and rejects nothing. A mistake
    in `gates` fails the task before any gate runs, and rejects nothing either.

    :param version: a number, a template, or what another operator on this model returned.
    :param saved_model: instead of that, a directory, or what `ExportSavedModelOperator` returned; needs `image`.
    :param gates: a gates file, or its contents as a dict; None: the gates that need no file.
    :param reject_on_failure: unload a version that failed and withdraw it from the store.
    :param image: one image or several; needs the package `docker`.
    :param server: further options of these containers, a `ServerOptions` or its fields as a dict.
    :param copy: copy the model into the container, where the engine does not see this worker's directories.
    :param docker_url: the engine; empty: what ``DOCKER_HOST`` says, or the local socket.

    Returns ``{model, version, fingerprint, verdict, reason, measured, replicas, seconds}``; replicas are the images.
    """

    template_fields = (
        *TFServingOperator.template_fields, "version", "saved_model", "gates", "image", "server", "docker_url"
    )  # fmt: skip

    def __init__(
        self,
        *,
        version: int | str | Mapping[str, Any] | None = None,
        saved_model: str | Mapping[str, Any] | None = None,
        gates: str | Mapping[str, Any] | None = None,
        reject_on_failure: bool = True,
        image: str | Sequence[str] | None = None,
        server: Mapping[str, Any] | ServerOptions | None = None,
        copy: bool = False,
        docker_url: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.saved_model = saved_model
        self.gates = gates
        self.reject_on_failure = reject_on_failure
        self.image = image
        self.server = server
        self.copy = copy
        self.docker_url = docker_url
        self._in_images: ImageValidation | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the gates and return the passing report."""
        from tfs_deploy.validation.runner import require_pass

        with translate_errors():
            gates = gates_of(self.gates)
            if (self.version is None) == (self.saved_model is None):
                raise InvalidInput("Neither or both of version and saved_model are given.", "Give one of them.")
            if self.image:
                self._in_images = ImageValidation(self.image, self.server, self.docker_url, copy=self.copy)
            elif self.saved_model is not None:
                raise InvalidInput("A saved_model that is not published is on no replica.", "Name an image, too.")
            if self.saved_model is not None and self._in_images:
                return report_value(
                    require_pass(self._in_images.of_directory(context, self.saved_model, self.model, gates))
                )
            version = version_of(self.version, self.model)
        return self._validate_version(context, version, gates)

    def _validate_version(self, context: Context, version: int, gates: Any) -> dict[str, Any]:
        from tfs_deploy.deployment.modes import reject_on_failure, steps_of
        from tfs_deploy.validation.runner import require_pass

        with self.step(context) as session:
            steps = steps_of(session)
            if self._in_images:
                report = self._in_images.of_version(context, session.store, self.model, version, gates)
            else:
                report = steps.validate(session, self.model, version, gates)
            if not self.reject_on_failure:
                return report_value(require_pass(report))
            with reject_on_failure(session, self.model, version, steps.reject):
                return report_value(require_pass(report))

    def on_kill(self) -> None:
        """Stop the container that runs now."""
        if self._in_images:
            self._in_images.stop()


def report_value(report: ValidationReport) -> dict[str, Any]:
    """Return `report` without its checks as one flat dict, for an XCom; the store keeps the whole report."""
    from tfs_deploy.validation.runner import worst_metrics

    return {
        "model": report.model,
        "version": report.version,
        "fingerprint": report.fingerprint,
        "verdict": report.verdict.value,
        "reason": report.reason(),
        "measured": worst_metrics(report),
        "replicas": list(report.replicas),
        "seconds": report.seconds,
    }

"""The error tree: every failure says whether trying again can help, what happened and what to do."""

from __future__ import annotations

from typing import ClassVar


class TFSDeployError(Exception):
    """Root of every error that this package raises on purpose.

    ``cause`` is one sentence with names and numbers; ``remedy`` is one sentence that says what to do.
    ``exit_code`` is what the command line ends with: 1 a gate failed or the protocol refused, 2 a mistake of the
    caller, 3 could not tell.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}"


class Transient(TFSDeployError):
    """The same call may succeed later; nothing is known to be wrong with the model."""

    exit_code = 3


class Unreachable(Transient):
    """A model server or a store did not answer, or answered that it is unavailable."""


class Busy(Transient):
    """A model server answered an RPC that it is busy, which says nothing about the model (contract 20.12).

    ``code`` is the gRPC status code's name, e.g. ``RESOURCE_EXHAUSTED``.
    """

    def __init__(self, cause: str, remedy: str, *, code: str) -> None:
        super().__init__(cause, remedy)
        self.code = code


class LoadInterrupted(Transient):
    """A load ended for want of memory, of a file system that answers, or because the server was killed.

    It says nothing about the version.
    """


class DeadlineExceeded(Transient):
    """A wait ended before its condition held."""


class Contention(Transient):
    """Somebody else changed the same state document, or holds the serving group."""


class Permanent(TFSDeployError):
    """The same call fails again until a person or another input changes something."""


class InvalidInput(Permanent):
    """An argument, a name or a file is not usable as given."""

    exit_code = 2


class NotFound(Permanent):
    """A model, version, label, signature or file that the caller named does not exist."""

    exit_code = 2


class NotServed(NotFound):
    """A model server does not serve the model, version or label that an RPC names, for example after a restart."""


class Refused(Permanent):
    """The action would break an invariant, so nothing was changed."""


class Drift(Refused):
    """A replica does not hold what the desired state says it holds."""


class ExportFailed(Permanent):
    """A checkpoint could not be turned into a SavedModel; no output directory is left."""


class CorruptModel(Permanent):
    """A SavedModel, manifest or request file does not hold what it must hold."""


class LoadFailed(Permanent):
    """A replica reported that it could not load the version; the message quotes the server."""


class ModelServerError(Permanent):
    """A model server answered an RPC with an error that trying again does not cure.

    ``code`` is the gRPC status code's name, e.g. ``INVALID_ARGUMENT``.
    """

    def __init__(self, cause: str, remedy: str, *, code: str) -> None:
        super().__init__(cause, remedy)
        self.code = code


class SetupError(ModelServerError):
    """A proxy, a flag of the server or the client's own settings prevent the RPC; no model is at fault."""


class StoreError(Permanent):
    """The store cannot be read or written as configured."""

    exit_code = 2


class ValidationFailed(Permanent):
    """At least one gate failed; the message names it and its numbers."""


class Inconclusive(Transient):
    """The gates could not be decided, e.g. because a replica stopped answering."""


# The packages of each optional part of this distribution; a test compares them with pyproject.toml. Messages name the
# packages, because the name `tfs-deploy` belongs to another distribution on the public index.
EXTRAS = {
    "airflow": ("apache-airflow",),
    "tensorflow": ("tensorflow",),
    "s3": ("boto3", "obstore"),
    "docker": ("docker",),
    "gateway": ("jinja2", "pillow", "prometheus-client", "tornado"),
    "sync": ("prometheus-client",),
}


class MissingExtra(Permanent):
    """An optional dependency is not installed; the remedy names the packages to install."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"The Python package {package!r} is not installed here.", install_hint(extra))
        self.package = package
        self.extra = extra


def install_hint(extra: str) -> str:
    """Return the sentence that tells how to install the packages of `extra`, a key of `EXTRAS`."""
    return f"Install it with: pip install {' '.join(EXTRAS[extra])}."

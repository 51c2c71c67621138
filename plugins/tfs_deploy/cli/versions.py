"""From what a user writes for a version to its number, and the models that a group knows."""

from __future__ import annotations

import re

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.session import GroupSession
from tfs_deploy.errors import NotFound
from tfs_deploy.names import check_label, check_model_name, check_version

_NUMBER = re.compile(r"[+-]?[0-9.]+")


def version_of(session: GroupSession, model: str, text: str) -> int:
    """Return the version that `text` names: a number, or a label of `model` in this group.

    Raises NotFound for a label that the group does not have, InvalidInput for what is neither.
    """
    check_model_name(model)
    if not text or _NUMBER.fullmatch(text):
        return check_version(text)
    labels = desired_state.read(session.store.documents, session.group).state.labels(model)
    if check_label(text) not in labels:
        known = ", ".join(f"{label} = {version}" for label, version in sorted(labels.items())) or "none"
        raise NotFound(
            f"Model {model!r} has no label {text!r} in group {session.group.name!r} (labels: {known}).",
            "Give a version number, or one of those labels.",
        )
    return labels[text]


def require_known_model(session: GroupSession, model: str) -> None:
    """Raise NotFound unless the store, the desired state or the record knows `model`."""
    check_model_name(model)
    documents, group = session.store.documents, session.group
    known = (
        bool(session.store.versions(model))
        or model in desired_state.read(documents, group).state.models
        or model in records.models(documents, group.name)
    )
    if not known:
        raise NotFound(
            f"Neither the store {session.store.uri} nor group {group.name!r} knows model {model!r}.",
            "Check the name: tfs-deploy status lists the models of the group.",
        )

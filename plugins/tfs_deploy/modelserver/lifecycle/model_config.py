"""Checks of a ModelServerConfig with their messages (contract 5.2), and the models that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tfs_deploy.modelserver import text_config
from tfs_deploy.modelserver.lifecycle.source import All, Latest, Policy, Specific, WatchedModel
from tfs_deploy.modelserver.status import invalid_argument
from tfs_deploy.serving.codec import messages

PLATFORM = "tensorflow"
# `ModelType`, deprecated: 1 is TENSORFLOW, 2 is OTHER, 0 is not set.
_TYPE_TENSORFLOW = 1
# `io::ParseURI` of TensorFlow.
_URI = re.compile(r"[A-Za-z][0-9A-Za-z.]*://")
_LOCAL_URI = "file://"


def check_list(models: Iterable[Any]) -> None:
    """Refuse a name that is listed twice and a base path that is not absolute."""
    names: set[str] = set()
    for model in models:
        if model.name in names:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in models:
        if not model.base_path.startswith("/") and not _URI.match(model.base_path):
            raise invalid_argument(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def check_platforms_kept(old: Iterable[Any], new: Iterable[Any]) -> None:
    """Refuse another platform for a known model.

    A model in `old` without a platform fails every `new` config: as in TF Serving, the config that was refused for it
    had become current before, and no later one is accepted (contract 5.2, steps 2 and 3).
    """
    known = {model.name: platform_of(model) for model in old}
    for model in new:
        if model.name in known and (requested := platform_of(model)) != known[model.name]:
            raise invalid_argument(
                f"Illegal to change a model's platform. For model {model.name} platform was {known[model.name]} "
                f"and new platform requested is {requested}"
            )


def check_platforms_served(models: Iterable[Any]) -> None:
    """Refuse every platform but TensorFlow."""
    for model in models:
        if (platform := platform_of(model)) != PLATFORM:
            raise invalid_argument(f"Model {model.name} requests unsupported platform {platform}")


def platform_of(model: Any) -> str:
    """Return the platform of a model, from either of its two fields."""
    fields = "ModelServerConfig::model_type (deprecated)"
    if model.model_type and model.model_platform:
        raise invalid_argument(
            f"Illegal setting both {fields} and ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_type:
        if model.model_type != _TYPE_TENSORFLOW:
            raise invalid_argument(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
        return PLATFORM
    if not model.model_platform:
        raise invalid_argument(
            f"Illegal setting neither {fields} nor ModelServerConfig::model_platform, model name is {model.name}"
        )
    return str(model.model_platform)


def watched(model: Any) -> WatchedModel:
    """Return the watched model of a ModelConfig."""
    path = model.base_path.removeprefix(_LOCAL_URI)
    return WatchedModel(
        model.name, path if path.startswith("/") else model.base_path, _policy(model.model_version_policy)
    )


def _policy(policy: Any) -> Policy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(frozenset(policy.specific.versions))
    return Latest(policy.latest.num_versions or 1)


def single_model(name: str, base_path: str) -> Any:
    """Return the config of the flags --model_name and --model_base_path."""
    config = messages.ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform=PLATFORM)
    return config


def read_file(path: str) -> Any:
    """Return the ModelServerConfig in a text file; raise NOT_FOUND without it, INVALID_ARGUMENT for any other text."""
    return text_config.read_text_proto(path, messages.ModelServerConfig(), messages.private_pool())

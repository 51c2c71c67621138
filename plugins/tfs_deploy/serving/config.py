"""The ModelServerConfig that a serving group runs on: values, protobuf and the text of the start-up file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_label, check_model_name, check_version
from tfs_deploy.serving.codec import messages

PLATFORM = "tensorflow"  # the only platform a stock model server loads


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: `versions` is the whole ``specific`` policy, `labels` the whole label map."""

    name: str
    base_path: str
    versions: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)


def to_proto(entries: Iterable[ModelEntry]) -> Any:
    """Return the ModelServerConfig of `entries`; raise InvalidInput for what every model server refuses or misreads.

    Whether a label's version is listed or AVAILABLE is not asked here: that depends on the server.
    """
    config = messages.ModelServerConfig()
    config.model_config_list.SetInParent()
    seen: set[str] = set()
    for entry in entries:
        _check(entry, seen)
        seen.add(entry.name)
        model = config.model_config_list.config.add(name=entry.name, base_path=entry.base_path, model_platform=PLATFORM)
        model.model_version_policy.specific.versions.extend(entry.versions)
        for label, version in entry.labels.items():
            model.version_labels[label] = version
    return config


def to_text(entries: Iterable[ModelEntry]) -> str:
    """Return `entries` in protobuf's text format, the same text for the same entries."""
    text: str = text_format.MessageToString(to_proto(entries), descriptor_pool=messages.descriptor_pool_())
    return text


def from_proto(config: Any) -> tuple[ModelEntry, ...]:
    """Return the entries of a ModelServerConfig; raise InvalidInput for parts that ModelEntry does not hold."""
    if config.WhichOneof("config") == "custom_model_config":
        raise InvalidInput("The model server config has a custom_model_config.", "Use model_config_list.")
    return tuple(_entry(model) for model in config.model_config_list.config)


def from_text(text: str) -> tuple[ModelEntry, ...]:
    """Return the entries in `text`, a ModelServerConfig in protobuf's text format."""
    try:
        config = text_format.Parse(text, messages.ModelServerConfig(), descriptor_pool=messages.descriptor_pool_())
    except text_format.ParseError as error:
        raise InvalidInput(
            f"This is not a model server config: {error}.", "Give a ModelServerConfig in protobuf text format."
        ) from error
    entries = from_proto(config)
    to_proto(entries)
    return entries


def _entry(model: Any) -> ModelEntry:
    if model.model_version_policy.WhichOneof("policy_choice") != "specific":
        raise InvalidInput(
            f"The model {model.name!r} does not list its versions.",
            "Use model_version_policy { specific { versions: N } }; 'latest' and 'all' move traffic by themselves.",
        )
    if model.HasField("logging_config"):
        raise InvalidInput(
            f"The model {model.name!r} has a logging_config, which a stock model server refuses.", "Remove it."
        )
    if model.model_platform != PLATFORM:
        raise InvalidInput(
            f"The model {model.name!r} has the platform {model.model_platform!r}.", f"Use model_platform: {PLATFORM!r}."
        )
    return ModelEntry(
        name=model.name,
        base_path=model.base_path,
        versions=tuple(model.model_version_policy.specific.versions),
        labels=dict(sorted(model.version_labels.items())),
    )


def _check(entry: ModelEntry, seen: set[str]) -> None:
    check_model_name(entry.name)
    if entry.name in seen:
        raise InvalidInput(f"The model {entry.name!r} is listed twice.", "List every model once.")
    if not entry.base_path.startswith("/") and "://" not in entry.base_path:
        raise InvalidInput(
            f"The base path {entry.base_path!r} of model {entry.name!r} is not absolute.",
            "Give the absolute path that the model server sees.",
        )
    if not entry.versions:
        raise InvalidInput(
            f"The model {entry.name!r} lists no version, which unloads all of them.",
            "List a version, or leave the model out.",
        )
    if len(set(entry.versions)) != len(entry.versions):
        raise InvalidInput(f"The model {entry.name!r} lists a version twice: {entry.versions}.", "List each once.")
    for version in entry.versions:
        check_version(version)
    for label, version in entry.labels.items():
        check_label(label)
        check_version(version)

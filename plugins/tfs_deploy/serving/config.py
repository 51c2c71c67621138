"""The ModelServerConfig that a serving group runs on: values, protobuf and the text of the start-up file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from google.protobuf import text_format

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_label, check_listed_version, check_model_name, check_version
from tfs_deploy.serving.codec import messages

PLATFORM = "tensorflow"  # the only platform that a stock model server loads


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: `versions` is the whole ``specific`` policy, `labels` the whole label map."""

    name: str
    base_path: str
    versions: tuple[int, ...]
    labels: dict[str, int] = field(default_factory=dict)


def to_proto(entries: Iterable[ModelEntry]) -> Any:
    """Return the ModelServerConfig of `entries`; raise InvalidInput for what every model server refuses or misreads.

    Labels are checked by `config_linter`, because what they may name depends on the server.
    """
    config = messages.ModelServerConfig()
    config.model_config_list.SetInParent()
    names: set[str] = set()
    for entry in entries:
        _check(entry, names)
        names.add(entry.name)
        model = config.model_config_list.config.add(name=entry.name, base_path=entry.base_path, model_platform=PLATFORM)
        model.model_version_policy.specific.versions.extend(entry.versions)
        for label, version in entry.labels.items():
            model.version_labels[label] = version
    return config


def to_text(entries: Iterable[ModelEntry]) -> str:
    """Return `entries` in protobuf's text format, the same text for the same entries."""
    text: str = text_format.MessageToString(to_proto(entries), descriptor_pool=messages.private_pool())
    return text


def from_proto(config: Any) -> tuple[ModelEntry, ...]:
    """Return the entries of a ModelServerConfig; raise InvalidInput for parts that ModelEntry does not hold."""
    if config.WhichOneof("config") == "custom_model_config":
        raise InvalidInput("The model server config has a custom_model_config.", "Use model_config_list.")
    return tuple(_entry(model) for model in config.model_config_list.config)


def from_text(text: str) -> tuple[ModelEntry, ...]:
    """Return the entries in `text`, a ModelServerConfig in protobuf's text format."""
    try:
        config = text_format.Parse(text, messages.ModelServerConfig(), descriptor_pool=messages.private_pool())
    except text_format.ParseError as error:
        raise InvalidInput(
            f"This is not a model server config: {error}.", "Give a ModelServerConfig in protobuf text format."
        ) from error
    entries = from_proto(config)
    to_proto(entries)
    return entries


def base_path_error(path: str, owner: str = "") -> tuple[str, str] | None:
    """Return why TF Serving cannot read a base path, and the remedy; the cause names `owner` (`` of model 'm'``)."""
    scheme = urlsplit(path).scheme
    if scheme and scheme != "gs":
        return (
            f"The base path {path!r}{owner} begins with {scheme}://, which TF Serving cannot read.",
            "Give a local directory that a sync agent or a shared disk fills.",
        )
    if not scheme and not path.startswith("/"):
        return f"The base path {path!r}{owner} is relative, which TF Serving refuses.", "Give an absolute path."
    return None


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


def _check(entry: ModelEntry, names: set[str]) -> None:
    check_model_name(entry.name)
    if entry.name in names:
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
        check_listed_version(version)
    for label, version in entry.labels.items():
        check_label(label)
        check_version(version)

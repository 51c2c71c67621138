"""Read and check the gateway's YAML file, before a port is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tfs_deploy.errors import InvalidInput
from tfs_deploy.gateway.config import GatewayConfig, ModelConfig
from tfs_deploy.names import check_label, check_model_name
from tfs_deploy.serving.group import Mode, SettingsSource, check_targets
from tfs_deploy.yamlfile import check_settings, read_yaml

# How messages name the settings of the model servers.
REPLICA_SOURCE = SettingsSource("the gateway configuration", targets="replicas", tls_prefix="replica_tls.")
# RFC 9110, 5.1: a field name is a token.
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
# RFC 6454: scheme, host and port, no path.
_ORIGIN = re.compile(r"https?://[^\s/?#@*]+")


def read_config(path: str | Path) -> GatewayConfig:
    """Return the gateway's configuration in a YAML or JSON file; raise InvalidInput that names the wrong field.

    Relative paths start at the file's own directory.
    """
    source = Path(path)
    return config_from(
        read_yaml(source, "gateway configuration"),
        base=source.parent,
        where=f"The gateway configuration {str(source)!r}",
    )


def config_from(data: object, *, base: Path = Path(), where: str = "The gateway configuration") -> GatewayConfig:
    """Return `data` (dicts and lists) as a configuration; raise InvalidInput that names the wrong field."""
    remedy = "Correct the field that the message names; README.md of the gateway lists all of them."
    config = check_settings(data, GatewayConfig, subject=where, remedy=remedy)
    for problem in _problems(config):
        raise InvalidInput(f"{where} does not fit: {problem}.", "Correct that field.")
    if config.replica_tls is not None:
        config.replica_tls.check(REPLICA_SOURCE)
    return _anchored(config, base)


def _problems(config: GatewayConfig) -> Iterator[str]:
    if not config.models:
        yield "`models` is empty"
    for name, model in config.models.items():
        yield from _model_problems(f"models.{name}", name, model, config.replicas)
    yield from _target_problems("replicas", config.replicas)
    if not config.listen.address:
        yield "`listen.address` is empty"
    if not (config.listen.loopback or config.auth.has_keys or config.auth.open):
        yield (
            f"`listen.address` {config.listen.address} can be reached from other machines, but `auth` has no keys; "
            "set `auth.keys_file` or `auth.keys_env`, or `auth: {open: true}` to serve without keys"
        )
    if config.auth.open and config.auth.has_keys:
        yield "`auth` is open and has keys; remove one of them"
    for origin in config.cors.origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield f"`cors.origins` has {origin!r}, which is not like https://app.example"
    if config.health.max_age_seconds < config.health.interval_seconds:
        yield "`health.max_age_seconds` is below `health.interval_seconds`"


def _model_problems(where: str, name: str, model: ModelConfig, replicas: tuple[str, ...]) -> Iterator[str]:
    yield from _name_problems(where, check_model_name, name)
    if model.model:
        yield from _name_problems(f"{where}.model", check_model_name, model.model)
    for label in (model.label, *model.labels):
        yield from _name_problems(f"{where}.label", check_label, label)
    if model.mode is Mode.LATEST:
        yield from _latest_problems(where, model)
    if not (model.replicas or replicas):
        yield f"neither `replicas` nor `{where}.replicas` names a model server"
    yield from _target_problems(f"{where}.replicas", model.replicas)
    for part in ("processor", "postprocessor"):
        if (given := getattr(model, part)) and given.base:
            yield f"`{where}.{part}` has unknown field `base`"
    for part, label in _other_labels(model):
        yield from _name_problems(f"{where}.{part}.label", check_label, label)
        if label == model.label:
            yield f"`{where}.{part}.label` is the model's own label {label!r}"
    header = model.canary.sticky_header if model.canary else None
    if header is not None and not _HEADER.fullmatch(header):
        yield f"`{where}.canary.sticky_header` {header!r} is not a header name"


def _latest_problems(where: str, model: ModelConfig) -> Iterator[str]:
    """Yield the settings that need labels, which ``mode: latest`` does not have."""
    given = {
        "label": model.label != ModelConfig().label,
        "labels": bool(model.labels),
        "canary": model.canary is not None,
        "shadow": model.shadow is not None,
    }
    for name in (name for name, there in given.items() if there):
        yield f"`{where}.{name}` needs labels, which model servers of `mode: latest` do not have"


def _other_labels(model: ModelConfig) -> Iterator[tuple[str, str]]:
    if model.canary:
        yield "canary", model.canary.label
    if model.shadow:
        yield "shadow", model.shadow.label


def _name_problems(where: str, check: Any, name: str) -> Iterator[str]:
    try:
        check(name)
    except InvalidInput as error:
        yield f"`{where}`: {error.cause.rstrip('.')}"


def _target_problems(where: str, replicas: tuple[str, ...]) -> Iterator[str]:
    try:
        if replicas:
            check_targets(replicas)
    except InvalidInput as error:
        yield f"`{where}`: {error.cause.rstrip('.')}"


def _anchored(config: GatewayConfig, base: Path) -> GatewayConfig:
    """Return `config` with its relative paths below `base`."""

    def below(path: str | None) -> str | None:
        return None if path is None else str(base / path)

    def anchored(part: Any, *names: str) -> Any:
        return part and msgspec.structs.replace(part, **{name: below(getattr(part, name)) for name in names})

    def anchored_model(model: ModelConfig) -> ModelConfig:
        capture = anchored(model.capture, "directory")
        # A store is a directory or a URI.
        if capture and capture.upload and "://" not in capture.upload:
            capture = anchored(capture, "upload")
        processors = {
            name: given and msgspec.structs.replace(given, base=str(base))
            for name, given in (("processor", model.processor), ("postprocessor", model.postprocessor))
        }
        label = "" if model.mode is Mode.LATEST else model.label
        return msgspec.structs.replace(model, label=label, capture=capture, **processors)

    models = {name: anchored_model(model) for name, model in config.models.items()}
    return msgspec.structs.replace(
        config,
        models=models,
        listen=msgspec.structs.replace(config.listen, tls=anchored(config.listen.tls, "certificate", "key")),
        replica_tls=config.replica_tls and config.replica_tls.below(base),
        auth=anchored(config.auth, "keys_file"),
    )

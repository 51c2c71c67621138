"""What an engine's refusal means, and what to do about it: from status and words to one of our errors."""

from __future__ import annotations

import re

from tfs_deploy.errors import InvalidInput, NotFound, Permanent, Refused, TFSDeployError, Unreachable


class PortTaken(Refused):
    """A port that was asked for by number is in use on the engine's host."""


class NoGpu(Refused):
    """The engine has no GPU to give, or not the ones that were asked for."""


_PORT = re.compile(r"port is already allocated|address already in use|ports are not available", re.IGNORECASE)
_PORT_NUMBER = re.compile(r":(\d+)(?:\b|\s*failed)")
_GPU = re.compile(r"could not select device driver|nvidia-container-cli|no known GPU vendor|unresolvable CDI", re.I)
_BIND = re.compile(r"bind source path does not exist: ?(\S+)")
_NO_IMAGE = re.compile(
    r"no such image|manifest( for .*)? (unknown|not found)|pull access denied|repository .* not found",
    re.IGNORECASE,
)
_NO_REGISTRY = re.compile(r"dial tcp|no such host|i/o timeout|TLS handshake|request canceled|connection refused", re.I)


def engine_error(status: int, words: str, *, where: str, what: str) -> TFSDeployError:
    """Return the error that the engine's answer `status` with `words` stands for; `what` is an image or a container."""
    told = " ".join(words.split())
    for sign, make in ((_PORT, _port), (_GPU, _gpu), (_BIND, _bind), (_NO_IMAGE, _no_image), (_NO_REGISTRY, _registry)):
        if sign.search(told):
            return make(told, where, what)
    if status == 404:
        return NotFound(f"The container engine at {where} does not have what was named: {told}.", "Check the name.")
    if status == 409 or status >= 500:
        return Refused(f"The container engine at {where} refused: {told}.", "Correct what it names.")
    if status == 400:
        return InvalidInput(f"The container engine at {where} cannot use the options: {told}.", "Correct them.")
    return Permanent(f"The container engine at {where} answered {status}: {told}.", "See the engine's log.")


def _port(told: str, where: str, what: str) -> TFSDeployError:
    number = _PORT_NUMBER.search(told)
    named = f"Port {number[1]}" if number else "A port"
    return PortTaken(
        f"{named} is taken on the host of the container engine at {where}.",
        "Stop what listens there, give another one, or leave the port out for a free one.",
    )


def _gpu(told: str, where: str, what: str) -> TFSDeployError:
    return NoGpu(
        f"The container engine at {where} has no GPU for this: {told}.",
        "Install the NVIDIA container toolkit on its host, ask for GPUs that are there, or leave gpus out.",
    )


def _bind(told: str, where: str, what: str) -> TFSDeployError:
    found = _BIND.search(told)
    directory = found[1].rstrip(".,\"'") if found else "the directory"
    return NotFound(
        f"The host of the container engine at {where} has no directory {directory}.",
        "Name one that the engine sees, or let the model be copied into the container (copy).",
    )


def _no_image(told: str, where: str, what: str) -> TFSDeployError:
    return NotFound(
        f"The container engine at {where} has no image {what}, and none can be pulled: {told}.",
        "Check name and tag, build it, or log the engine in to its registry.",
    )


def _registry(told: str, where: str, what: str) -> TFSDeployError:
    return Unreachable(
        f"The container engine at {where} has no image {what}, and reaches no registry: {told}.",
        "Load or build the image there, or give the engine a way to the registry.",
    )

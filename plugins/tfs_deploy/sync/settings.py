"""The settings of an agent, checked before it changes anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tfs_deploy.errors import InvalidInput
from tfs_deploy.names import check_group_name, check_model_name, is_model_name

# How long a version stays after it is no longer required: a replica may still serve it, and a repeated deploy needs it
# again.
LINGER_SECONDS = 60.0
# A pass is also the heartbeat, and a deploy ignores agents without one for 120 s.
LONGEST_POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """Settings of one agent.

    `latest`: models whose highest version the agent downloads, instead of the versions of the group's desired state.
    `keep`: how many versions of each model stay beyond the required ones. `poll` and `linger` are seconds. `deep`: read
    every byte of the versions that are on the disk when the agent starts.
    """

    group: str
    name: str
    latest: tuple[str, ...] = ()
    keep: int = 2
    poll: float = 1.0
    linger: float = LINGER_SECONDS
    startup_config: Path | None = None
    deep: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for what cannot be used."""
        check_group_name(self.group)
        if not is_model_name(self.name):
            raise InvalidInput(
                f"The agent name {self.name!r} is not usable.",
                "Use letters, digits, '_', '-' and '.', at most 127, not starting with '.' or '-'.",
            )
        for model in self.latest:
            check_model_name(model)
        if self.keep < 0:
            raise InvalidInput(f"Cannot keep {self.keep} versions.", "Give a number from 0.")
        if not 0.01 <= self.poll <= LONGEST_POLL_SECONDS:
            raise InvalidInput(
                f"Cannot poll every {self.poll:g} s.", f"Give seconds from 0.01 to {LONGEST_POLL_SECONDS:g}."
            )
        self._check_startup_config()

    def _check_startup_config(self) -> None:
        if self.startup_config is None:
            return
        if self.latest:
            raise InvalidInput(
                "A start-up config file is for groups with labels, and --latest is for servers that follow a path.",
                "Leave one of the two out.",
            )
        if not self.startup_config.absolute().parent.is_dir():
            raise InvalidInput(
                f"The directory of the start-up config file {os.fspath(self.startup_config)!r} does not exist.",
                "Check the path.",
            )

"""Which version directories are the store's bytes: compared once per life of the agent, and again when replaced."""

from __future__ import annotations

from collections.abc import Mapping, Set

from tfs_deploy.errors import CorruptModel, NotFound
from tfs_deploy.savedmodel import manifest as manifests
from tfs_deploy.store.protocol import Store
from tfs_deploy.sync.disk import ReplicaDisk
from tfs_deploy.sync.plan import VersionName

_REMEDY = (
    "It may be live, so it is left alone: find out who put it there, and remove it by hand while no server serves it."
)


class Trust:
    """Remembers which directory of which version was found to be right."""

    def __init__(self, store: Store, disk: ReplicaDisk, *, deep: bool = False) -> None:
        """`deep` reads every byte of what lies there already, instead of names and sizes only."""
        self._store = store
        self._disk = disk
        self._deep = deep
        self._right: dict[VersionName, tuple[int, int]] = {}

    def check(self, name: VersionName) -> None:
        """Compare what lies there with the store; raise CorruptModel if it is something else."""
        directory = self._disk.directory(name)
        identity = self._disk.look().ours.get(name)
        mine = manifests.read(directory)
        try:
            fingerprint = self._store.manifest(name.model, name.version).fingerprint
        except NotFound:
            # Deleted from the store while a server still needs it: the copy here is all there is, and is right if it
            # is what its own manifest says.
            fingerprint = mine.fingerprint
        if mine.fingerprint != fingerprint:
            raise CorruptModel(f"{str(directory)!r} holds {mine.fingerprint}, the store has {fingerprint}.", _REMEDY)
        try:
            manifests.verify(directory, mine, deep=self._deep)
        except CorruptModel as error:
            raise CorruptModel(error.cause, _REMEDY) from error
        if identity is not None:
            self._right[name] = identity

    def accept(self, name: VersionName) -> None:
        """Take a version for right that was compared on its way here."""
        identity = self._disk.look().ours.get(name)
        if identity is not None:
            self._right[name] = identity

    def among(self, ours: Mapping[VersionName, tuple[int, int]]) -> Set[VersionName]:
        """Return those of `ours` that were found to be right and are still the same directories."""
        return {name for name, identity in ours.items() if self._right.get(name) == identity}

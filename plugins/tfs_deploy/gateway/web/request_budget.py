"""How much the gateway holds in memory at once: requests per model, and bytes of bodies; refused before they come."""

from __future__ import annotations

from tfs_deploy.gateway.config import Limits
from tfs_deploy.gateway.problem import too_busy

# Bodies of the largest size that may be held at once, for all models together; what was fetched for them counts too.
_LARGEST_BODIES = 32


class Room:
    """Counts what is held; belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._requests = limits.concurrency + limits.queue
        self._bytes = _LARGEST_BODIES * limits.body_bytes
        self._held: dict[str, int] = {}
        self._held_bytes = 0

    def held(self, model: str) -> int:
        """Return how many requests of `model` are held."""
        return self._held.get(model, 0)

    @property
    def held_bytes(self) -> int:
        """Return how many bytes of bodies are held."""
        return self._held_bytes

    def enter(self, model: str) -> Ticket:
        """Let a request for `model` in; raise Problem (429)."""
        if self.held(model) >= self._requests:
            raise too_busy(f"The gateway has {self.held(model)} requests for model {model!r}.")
        self._held[model] = self.held(model) + 1
        return Ticket(self, model)

    def take(self, size: int) -> None:
        """Take room for `size` more bytes; raise Problem (429)."""
        if self._held_bytes + size > self._bytes:
            raise too_busy("The gateway holds as many bytes of requests as it may; try again.")
        self._held_bytes += size

    def give_back(self, model: str, size: int) -> None:
        """Forget a request and its bytes."""
        self._held[model] -= 1
        self._held_bytes -= size


class Ticket:
    """The room that one request takes."""

    __slots__ = ("_model", "_room", "_size")

    def __init__(self, room: Room, model: str) -> None:
        self._room: Room | None = room
        self._model = model
        self._size = 0

    def grow(self, size: int) -> None:
        """Take room for `size` more bytes; raise Problem (429)."""
        if self._room is not None:
            self._room.take(size)
            self._size += size

    def leave(self) -> None:
        """Give the room back; again is no error."""
        room, self._room = self._room, None
        if room is not None:
            room.give_back(self._model, self._size)

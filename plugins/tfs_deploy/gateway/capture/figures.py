"""What became of the captures of one model, in numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class CaptureFigures:
    """Counts since the start; `dropped` by reason: busy, too_large, disk, failed."""

    written: int = 0
    written_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    copied: int = 0
    copies_failed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note_written(self, size: int) -> None:
        """Count one record of `size` bytes."""
        with self._lock:
            self.written += 1
            self.written_bytes += size

    def note_dropped(self, reason: str) -> None:
        """Count one request that was to be captured and was not."""
        with self._lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def note_copied(self, *, done: bool) -> None:
        """Count one finished file that was copied to the store, or could not be."""
        with self._lock:
            self.copied += done
            self.copies_failed += not done

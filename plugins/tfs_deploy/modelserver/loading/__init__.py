"""One version from disk into memory: tried in a child process, loaded, warmed up (contract 3.6, 9)."""

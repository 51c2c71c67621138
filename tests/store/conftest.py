"""What the store tests print at the end of the run."""

from __future__ import annotations

import pytest

from store.summaries import SUMMARIES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the counts of the crash tests."""
    for line in config.stash.get(SUMMARIES, []):
        terminalreporter.write_line(line)

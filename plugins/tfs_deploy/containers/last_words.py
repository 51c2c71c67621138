"""What a model server that ended said last, short enough for a sentence."""

from __future__ import annotations

import re

# How much of the log is read, and how much of it goes into the sentence.
LOG_LINES = 200
_SENTENCE_LINES = 3
_SENTENCE_CHARACTERS = 900
_TELLING = re.compile(r"error|fail|fatal|abort|denied|unknown|invalid|core dumped|killed|exception", re.IGNORECASE)
# The date, thread and place that TensorFlow writes before its words.
_PREFIX = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d+:? ?)?([IWEF] )?(\S+\.(cc|h|py):\d+\] )?")
# What the server says of the start as a whole: it names the reason, and is the one line to quote if there is one.
_VERDICT = re.compile(r"Failed to start server\. Error: (.*)")


def last_words(log: str) -> str:
    """Return the lines that tell why, the last ones first to be kept; a fixed text for an empty log."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    lines = [line for line in lines if line]
    verdicts = [found[1] for line in lines if (found := _VERDICT.search(line))]
    telling = list(dict.fromkeys(line for line in lines if _TELLING.search(line)))
    chosen = verdicts[-1:] or telling[-_SENTENCE_LINES:] or lines[-_SENTENCE_LINES:]
    text = " / ".join(chosen) or "it wrote nothing"
    return text if len(text) <= _SENTENCE_CHARACTERS else f"…{text[-_SENTENCE_CHARACTERS:]}"

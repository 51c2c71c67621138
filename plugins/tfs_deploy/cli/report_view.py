"""The table of what the gates found."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfs_deploy.validation.report import ValidationReport, Verdict

STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "yellow"}


def show_report(console: Console, report: ValidationReport) -> None:
    """Print one row per gate and replica, and the sentence that decides."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("gate", no_wrap=True)
    table.add_column("replica", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in report.checks:
        verdict = Text(check.verdict.value, style=STYLES[check.verdict])
        table.add_row(Text(check.gate), Text(check.replica), verdict, Text(check.detail))
    console.print(table)
    console.print()
    console.print(Text(report.reason(), style=STYLES[report.verdict]))

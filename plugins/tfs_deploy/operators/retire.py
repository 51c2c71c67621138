"""Step retire: old versions are unloaded, then deleted; the live one and those for a rollback stay."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tfs_deploy.errors import InvalidInput
from tfs_deploy.jsonable import to_builtins
from tfs_deploy.operators.base import TFServingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class RetireModelVersionsOperator(TFServingOperator):
    """Delete versions older than the stable one, except labelled ones and the newest `keep`, and abandoned ones.

    :param keep: how many old versions stay, besides the labelled ones.
    :param abandoned_after_hours: a newer version that never was live goes if nothing was done with it for so long.
    :param preview: only return what would be deleted.

    Returns ``{model, retired, kept, dry_run, abandoned}``.
    """

    template_fields = (*TFServingOperator.template_fields, "keep", "abandoned_after_hours")

    def __init__(
        self, *, keep: int | str = 3, abandoned_after_hours: float | str = 24.0, preview: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.keep = keep
        self.abandoned_after_hours = abandoned_after_hours
        self.preview = preview

    def execute(self, context: Context) -> dict[str, Any]:
        """Retire, and return what was deleted and what stays."""
        from tfs_deploy.deployment.modes import steps_of

        with self.step(context) as session:
            keep, abandoned_after = _count(self.keep), _hours(self.abandoned_after_hours)
            done: dict[str, Any] = to_builtins(
                steps_of(session).retire(
                    session,
                    self.model,
                    keep=keep,
                    dry_run=self.preview,
                    abandoned_after=abandoned_after,
                )
            )
            return done


def _count(value: int | str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"Cannot keep {value!r} versions.", "Give a number from 0.") from error


def _hours(value: float | str) -> timedelta:
    try:
        return timedelta(hours=float(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"Nothing is abandoned after {value!r} hours.", "Give a number from 0.") from error

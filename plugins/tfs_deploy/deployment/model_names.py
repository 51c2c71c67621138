"""A model name that is new to a group, and the known names that it may be a slip of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tfs_deploy.deployment import desired_state, records
from tfs_deploy.deployment.session import GroupSession


@dataclass(frozen=True, slots=True)
class NewName:
    """A name that the group does not know; `similar` are the known ones that differ by case or by one letter."""

    model: str
    group: str
    similar: tuple[str, ...]

    def __str__(self) -> str:
        sentence = f"This is the first version of a new model, {self.model!r}, in group {self.group!r}."
        if not self.similar:
            return sentence
        return f"{sentence} Its name differs by one letter or by case from {', '.join(map(repr, self.similar))}."


def new_name(session: GroupSession, model: str) -> NewName | None:
    """Return `model` with the names that it resembles, or None if the group serves it or has a record of it."""
    documents, group = session.store.documents, session.group
    served = desired_state.read(documents, group).models
    if model in served:
        return None
    known = {*served, *records.models(documents, group.name)}
    if model in known:
        return None
    return NewName(model, group.name, similar_names(model, {*known, *session.store.models()} - {model}))


def similar_names(model: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return, sorted, the names of `known` that differ from `model` by case, or by one letter.

    A letter is inserted, removed, replaced, or two neighbours are swapped. Digits do not count: ``m1`` and ``m2`` are
    two models.
    """
    return tuple(sorted(name for name in known if name != model and _is_similar(model.casefold(), name.casefold())))


def _is_similar(one: str, other: str) -> bool:
    if one == other:
        return True
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) == len(longer):
        differing = [at for at, (left, right) in enumerate(zip(one, other, strict=True)) if left != right]
        letters = all(one[at].isalpha() and other[at].isalpha() for at in differing)
        first, last = differing[0], differing[-1]
        is_swap = last == first + 1 and (one[first], one[last]) == (other[last], other[first])
        return letters and (first == last or is_swap)
    return any(longer[at].isalpha() and longer[:at] + longer[at + 1 :] == shorter for at in range(len(longer)))

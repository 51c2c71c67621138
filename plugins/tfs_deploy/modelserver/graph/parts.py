"""Splits a large GraphDef into parts that are imported one after the other.

TensorFlow's import holds Python's interpreter lock: 20,000 nodes at once delay every request by 0.5 to 0.9 s (two
cores), each part by some 20 ms. Only exports of TensorFlow 1 have so many nodes outside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

PART_NODES = 500


@dataclass(slots=True)
class Part:
    """Nodes that are imported together, with the inputs (node, output) and control inputs that earlier parts have."""

    graph_def: bytes
    names: frozenset[str]
    inputs: frozenset[tuple[str, int]] = frozenset()
    controls: frozenset[str] = frozenset()
    # Nodes of this part that are inputs of later ones.
    exports: frozenset[str] = field(default=frozenset())


def parts_of(graph_def: Any, limit: int = PART_NODES) -> tuple[Part, ...]:
    """Return the parts of `graph_def`; one part if it is small, has functions, or a loop."""
    order = None
    if len(graph_def.node) > limit and not graph_def.library.ByteSize():
        order = _sorted(graph_def.node)
    if order is None:
        names = frozenset(node.name for node in graph_def.node)
        return (Part(graph_def.SerializeToString(), names),)
    parts = [_part(graph_def, nodes) for nodes in _slices(order, limit)]
    wanted = {name for part in parts for name, _ in part.inputs} | {name for part in parts for name in part.controls}
    for part in parts:
        part.exports = part.names & wanted
    return tuple(parts)


def _part(graph_def: Any, nodes: Sequence[Any]) -> Part:
    piece = type(graph_def)(versions=graph_def.versions)
    piece.node.extend(nodes)
    names = frozenset(node.name for node in nodes)
    inputs: set[tuple[str, int]] = set()
    controls: set[str] = set()
    for node in nodes:
        for source, index in _sources(node):
            if source in names:
                continue
            if index is None:
                controls.add(source)
            else:
                inputs.add((source, index))
    return Part(piece.SerializeToString(), names, frozenset(inputs), frozenset(controls))


def _sorted(nodes: Sequence[Any]) -> list[Any] | None:
    """Return the nodes, each after its inputs; None for a graph with a loop or a missing input.

    A depth-first search without recursion: a node is done when all its inputs are done.
    """
    by_name = {node.name: node for node in nodes}
    order: list[Any] = []
    state: dict[str, bool] = {}  # False: its inputs are being visited, True: done
    for root in nodes:
        stack = [root.name]
        while stack:
            name = stack[-1]
            if name in state:
                stack.pop()
                if not state[name]:
                    state[name] = True
                    order.append(by_name[name])
                continue
            if name not in by_name:
                return None
            state[name] = False
            for source, _ in _sources(by_name[name]):
                if not state.get(source, True):
                    return None  # a loop
                if source not in state:
                    stack.append(source)
    return order


def _slices(order: Sequence[Any], limit: int) -> Iterator[Sequence[Any]]:
    """Yield slices of at least `limit` nodes, such that no node ``a`` follows a slice with ``a/b``.

    For TensorFlow the name ``a`` exists as soon as ``a/b`` does.
    """
    position = {node.name: number for number, node in enumerate(order)}
    begin = closed_until = 0
    for number, node in enumerate(order):
        scope = node.name.rpartition("/")[0]
        while scope:
            closed_until = max(closed_until, position.get(scope, 0))
            scope = scope.rpartition("/")[0]
        if number + 1 - begin >= limit and closed_until <= number:
            yield order[begin : number + 1]
            begin = number + 1
    if begin < len(order):
        yield order[begin:]


def _sources(node: Any) -> Iterator[tuple[str, int | None]]:
    """Yield (node, output) for each input; (node, None) for a control input."""
    for text in node.input:
        if text.startswith("^"):
            yield text[1:], None
        else:
            name, _, index = text.partition(":")
            yield name, int(index or 0)

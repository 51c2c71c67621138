"""Cutting a GraphDef: every node once, after what it takes from, and no name before its scope. No TensorFlow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tfs_deploy.modelserver.graph.parts import parts_of
from tfs_deploy.serving.codec import messages


def graph_of(nodes: dict[str, list[str]]):
    graph = messages.message_class("tensorflow.GraphDef")()
    graph.versions.producer = 1234
    for name, inputs in nodes.items():
        graph.node.add(name=name, op="NoOp", input=inputs)
    return graph


names = st.lists(st.text("abc", min_size=1, max_size=1), min_size=1, max_size=4).map("/".join)


@st.composite
def graphs(draw):
    """Return nodes in any order whose inputs form no loop."""
    listed = draw(st.lists(names, unique=True, min_size=1, max_size=30))
    nodes = {}
    for number, name in enumerate(listed):
        earlier = draw(st.lists(st.sampled_from(listed[:number]), max_size=4)) if number else []
        form = st.sampled_from(["{}", "{}:1", "^{}"])
        nodes[name] = [draw(form).format(source) for source in earlier]
    return {name: nodes[name] for name in draw(st.permutations(listed))}


@given(graphs(), st.integers(1, 10))
def test_parts_of_any_graph(nodes, limit):
    graph = graph_of(nodes)
    parts = parts_of(graph, limit)
    seen: set[str] = set()
    exported: set[str] = set()
    for part in parts:
        piece = type(graph).FromString(part.graph_def)
        assert piece.versions.producer == 1234
        assert {node.name for node in piece.node} == part.names
        assert not part.names & seen
        # What TensorFlow refuses: a name that exists already as the scope of another.
        assert not any(old.startswith(f"{name}/") for old in seen for name in part.names)
        assert {name for name, _ in part.inputs} | part.controls <= exported
        for node in piece.node:
            assert list(node.input) == nodes[node.name]
            for text in node.input:
                source, _, index = text.removeprefix("^").partition(":")
                local = source in part.names
                assert local or (
                    source in part.controls if text[0] == "^" else (source, int(index or 0)) in part.inputs
                )
        seen |= part.names
        exported |= part.exports
    assert seen == set(nodes)


def test_a_long_chain_is_cut_into_parts_of_that_size():
    chain = {"n0": [], **{f"n{i}": [f"n{i - 1}"] for i in range(1, 1000)}}
    assert [len(part.names) for part in parts_of(graph_of(chain), 300)] == [300, 300, 300, 100]


def test_what_is_not_cut():
    loop = graph_of({"a": ["c"], "b": ["a"], "c": ["b"]})
    assert len(parts_of(loop, 1)) == 1
    assert len(parts_of(graph_of({"a": ["a"], "b": []}), 1)) == 1
    dangling = graph_of({"a": ["nobody"], "b": []})
    assert len(parts_of(dangling, 1)) == 1
    functions = graph_of({"a": [], "b": []})
    functions.library.function.add().signature.name = "f"
    assert len(parts_of(functions, 1)) == 1
    assert len(parts_of(graph_of({"a": [], "b": []}), 2)) == 1

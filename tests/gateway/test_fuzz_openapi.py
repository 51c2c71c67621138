"""Schemathesis on the gateway's own OpenAPI document: whatever it makes up, the answer is one that is documented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from gateway.background import MODELS, background_gateway
from gateway.gateways import KEY

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis needs Python 3.11")

EXAMPLES = 60
# Of operations without a body, and of a model's further labels, which are the same handler.
FEW_EXAMPLES = 15


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a gateway with three models, and a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"fuzz:{KEY}\n")
    with background_gateway(auth={"keys_file": str(keys)}) as started:
        yield started


def _operations(schema: Any) -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, item in schema.raw_schema["paths"].items()
        for method in item
        if method in _METHODS
    ]


_METHODS = ("get", "post")


@pytest.mark.timeout(600)
def test_every_answer_is_a_documented_one(url: str, tell: Callable[[str], None]) -> None:
    from schemathesis.generation import GenerationMode

    headers = {"Authorization": f"Bearer {KEY}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    statuses: Counter[int] = Counter()
    found = list(schema.get_all_operations())
    # All but the document itself, which it has.
    tried = {(one.ok().method.upper(), one.ok().path) for one in found}
    assert tried == set(_operations(schema)) - {("GET", "/openapi.json")}
    for result in found:
        operation = result.ok()
        bounded = _bounded(EXAMPLES if operation.method == "post" and "{label}" not in operation.path else FEW_EXAMPLES)

        @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        @bounded
        def right(case: Any) -> None:
            statuses[_try(case, headers, url)] += 1

        @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
        @bounded
        def wrong(case: Any) -> None:
            statuses[_try(case, headers, url)] += 1

        right()
        if operation.method.upper() == "POST":
            wrong()
    tell(f"{statuses.total()} requests made from the OpenAPI document: {dict(sorted(statuses.items()))}")
    assert statuses[200] > 100
    # 504 is what a time of next to nothing is answered with.
    assert not {status for status in statuses if status >= 500} - {504}


def _bounded(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def _try(case: Any, headers: dict[str, str], url: str) -> int:
    """Send one request; check status, content type and schema of its answer against the document."""
    answer = case.call(headers=headers, timeout=60.0)
    case.validate_response(answer, checks=_checks())
    if answer.status_code >= 400 and case.method.upper() != "HEAD":
        document = answer.json()
        assert answer.headers["content-type"] == ["application/problem+json"]
        assert document["status"] == answer.status_code
        assert document["detail"].endswith(".")
        assert "Traceback" not in answer.text
    return int(answer.status_code)


def _checks() -> list[Any]:
    from schemathesis import checks  # noqa: F401 - registers them
    from schemathesis.specs.openapi import checks as openapi

    return [
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
        openapi.response_headers_conformance,
    ]


def test_the_document_is_openapi_3_1(url: str) -> None:
    import requests

    document = requests.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"}, timeout=60.0).json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/v1/models",
        *(f"/v1/models/{name}" for name in MODELS),
        *(f"/v1/models/{name}/labels/{{label}}" for name in MODELS),
    }
    post = document["paths"]["/v1/models/pictures"]["post"]
    assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(document["paths"]["/v1/models/numbers"]["post"]["requestBody"]["content"]) == {"application/json"}
    assert {"200", "400", "401", "413", "415", "422", "429", "503", "504"} <= set(post["responses"])
    assert document["paths"]["/healthz"]["get"]["security"] == []

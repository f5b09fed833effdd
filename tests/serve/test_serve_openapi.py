"""The API keeps to its own description, whatever is sent to it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from serve_small import engine, listening

from langwright.serve import ServeConfig
from langwright.serve.routes import ROUTES

EXAMPLES = 3  # requests for each route; `pytest -m slow` sends more


def test_the_description_holds_every_route(address: str) -> None:
    document = httpx.get(address + "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    found = {(method.upper(), path) for path, one in document["paths"].items() for method in one}
    assert found == {(one.method, one.path) for one in ROUTES}
    names = [
        operation["operationId"] for one in document["paths"].values() for operation in one.values()
    ]
    assert len(set(names)) == len(names)
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"]


def run_schemathesis(url: str, examples: int) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    # Not everything that has the right types makes sense: n over best_of, ids that there are not.
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(url + "/openapi.json")
    modes = list(schemathesis.GenerationMode)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in modes:

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                body = case.body
                if isinstance(body, dict) and isinstance(body.get("max_tokens"), int):
                    body["max_tokens"] = min(body["max_tokens"], 6)  # answers stay short
                if isinstance(body, dict) and isinstance(body.get("model"), str):
                    body["model"] = "tiny"  # else most would end as 404
                response = case.call(timeout=20)
                assert response.status_code < 500, response.text
                case.validate_response(response, excluded_checks=[positive_data_acceptance])

            try:
                check()
            except Exception as error:
                if "NoExamples" in type(error).__name__ or "Unsatisfiable" in type(error).__name__:
                    continue  # a route without a body has nothing that could be wrong
                raise


def test_schemathesis_finds_nothing() -> None:
    with listening(engine(), ServeConfig(name="tiny", max_tokens=40)) as url:
        run_schemathesis(url, EXAMPLES)


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_many_requests() -> None:
    with listening(engine(), ServeConfig(name="tiny", max_tokens=40)) as url:
        run_schemathesis(url, 300)

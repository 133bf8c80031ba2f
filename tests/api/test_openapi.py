"""The OpenAPI document and the page that shows it."""

import re
from collections.abc import AsyncIterator

import pytest
from openapi_spec_validator import validate

from tests.api.conftest import Serve, Web


@pytest.fixture
def redis_kind() -> str:
    """Nothing here depends on the store."""
    return "fake"


@pytest.fixture
async def web(serve: Serve) -> AsyncIterator[Web]:
    """With every call that there is."""
    async with serve(console="full", worker=False) as running:
        yield running


async def test_the_document_is_valid_and_complete(web: Web) -> None:
    document = (await web.anonymous().get("/openapi.json")).json()
    validate(document)
    assert document["info"]["title"] == "rt"
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            if path.startswith("/v1/"):
                assert operation["security"] == [{"bearer": []}]
                problem = operation["responses"]["401"]["content"]["application/problem+json"]["schema"]
                assert problem == {"$ref": "#/components/schemas/Problem"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_every_path_of_the_document_names_its_parameters_and_body(web: Web) -> None:
    paths = (await web.anonymous().get("/openapi.json")).json()["paths"]
    submit = paths["/v1/jobs"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewJob"}
    assert {one["name"] for one in submit["parameters"]} == {"Idempotency-Key"}
    assert {one["name"] for one in paths["/v1/jobs"]["get"]["parameters"]} == {"status", "job", "limit", "cursor"}
    events = paths["/v1/jobs/{id}/events"]["get"]
    assert {one["name"] for one in events["parameters"]} == {"id", "cursor", "Last-Event-ID"}
    assert list(events["responses"]["200"]["content"]) == ["text/event-stream"]
    assert set(paths["/v1/streams/{stream}/events"]["get"]["responses"]["200"]["content"]) == {"text/event-stream", "application/json"}


async def test_the_page_needs_nothing_from_elsewhere_and_no_inline_script(web: Web) -> None:
    anyone = web.anonymous()
    page = await anyone.get("/docs")
    assert "openapi" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|style=", page.text)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"/docs/docs.js", "/docs/docs.css", "/openapi.json"} <= set(addresses)
    for address in addresses:
        asset = await anyone.get(address)
        assert asset.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/)|@import|innerHTML|eval\(", asset.text) or address == "/openapi.json"

"""Pages for people: which are there, how they are served, and what only `rt dev` does for them."""

import re
import subprocess

import pytest

from rt.api.pages import PAGES
from rt.tokens import DEFAULT_SCOPES, SCOPES, verify
from tests.api.conftest import Serve, Web, code
from tests.clients.javascript import HOME, needs_node
from tests.conftest import SECRET


@pytest.fixture
def redis_kind() -> str:
    """Nothing here depends on the store."""
    return "fake"


async def test_a_page_is_served_when_it_is_turned_on_and_under_rt_dev(serve: Serve) -> None:
    turned_on = {"demo": [{"demo": True}, {"dev": True}], "console": [{"console": "read"}, {"dev": True, "console": "full"}]}
    assert set(turned_on) == set(PAGES)
    for page in PAGES:
        for over, status in (({}, 404), *((over, 200) for over in turned_on[page])):
            async with serve(worker=False, **over) as web:
                anyone = web.anonymous()
                assert (await anyone.get(f"/{page}")).status_code == status
                assert (await anyone.get("/pages/base.css")).status_code == status
                known = await anyone.get("/pages/server.json")
                assert known.status_code == status
                if status == 200:
                    assert known.json()["dev"] is bool(over.get("dev"))
                    assert page in known.json()["pages"]


async def test_a_page_loads_from_its_own_server_alone_and_holds_no_script_or_style(serve: Serve) -> None:
    async with serve(worker=False, dev=True, console="full") as web:
        anyone = web.anonymous()
        for page in PAGES:
            got = await anyone.get(f"/{page}")
            assert got.headers["content-type"].startswith("text/html")
            policy = got.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; ")
            assert {one.split(" ", 1)[1] for one in policy.split("; ")} == {"'none'", "'self'", "'script'"}
            assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|\bstyle=", got.text)
            await _look(web, f"/{page}", {})


async def _look(web: Web, path: str, seen: dict[str, str]) -> None:
    """Follows everything that a file of ours loads."""
    got = await web.anonymous().get(path)
    assert got.status_code == 200, path
    seen[path] = text = got.text
    if path in ("/rt.js", "/docs"):
        return
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|document\.write", text), path
    for found in re.findall(r'(?:src|href)="(/[^"#]*)"|from "(\.[^"]+)"|import\("(\.[^"]+)"\)', text):
        address = str(got.url.join("".join(found)).path)
        if address not in seen:
            await _look(web, address, seen)


async def test_a_file_is_packed_and_not_sent_twice(serve: Serve) -> None:
    async with serve(worker=False, demo=True) as web:
        anyone = web.anonymous()
        packed = await anyone.get("/pages/base.css", headers={"Accept-Encoding": "gzip"})
        plain = await anyone.get("/pages/base.css", headers={"Accept-Encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.text == plain.text
        assert plain.headers["content-type"] == "text/css; charset=utf-8"
        again = await anyone.get("/pages/base.css", headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_rt_dev_gives_its_own_pages_a_token_for_any_name(serve: Serve) -> None:
    async with serve(worker=False, dev=True) as web:
        page = web.anonymous()
        page.headers["Origin"] = web.url
        got = await page.post("/dev/token", json={"subject": "guest-1"})
        assert got.status_code == 200, got.text
        claims = verify(SECRET, got.json()["token"])
        assert (claims.subject, claims.scopes) == ("guest-1", frozenset(DEFAULT_SCOPES))
        got = await page.post("/dev/token", json={"subject": "guest-1", "scopes": list(SCOPES)})
        assert verify(SECRET, got.json()["token"]).has("admin")
        for wrong in ({"subject": ""}, {"subject": "x", "scopes": ["all"]}, {"subject": "x", "ttl_s": 1}, {}):
            assert code(await page.post("/dev/token", json=wrong)) == "invalid_frame"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.test"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "[", "Origin": "http://["},
        {"Origin": ""},
        {"Content-Type": "text/plain"},
        # A name of somebody else's that leads here: the browser takes their page for one of this server.
        {"Host": "elsewhere.test:8000", "Origin": "http://elsewhere.test:8000"},
        # By way of a tunnel, whose end is on this machine.
        {"X-Forwarded-For": "203.0.113.7"},
    ],
)
@pytest.mark.parametrize("path", ["/dev/token", "/dev/kill-worker"])
async def test_nobody_else_s_page_is_given_anything(
    path: str, headers: dict[str, str], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.kill", lambda *_: pytest.fail("something was killed"))
    async with serve(worker=False, dev=True) as web:
        given = {"Origin": web.url, "Content-Type": "application/json", **headers}
        got = await web.anonymous().post(path, content=b'{"subject": "guest-1"}', headers={name: one for name, one in given.items() if one})
        assert (got.status_code, code(got)) == (403, "forbidden")


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.7", 403), ("", 403)])
async def test_another_machine_is_given_nothing(address: str, status: int, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(worker=False, dev=True) as web:
        monkeypatch.setattr("starlette.requests.Request.client", property(lambda _: type("Address", (), {"host": address})))
        got = await web.anonymous().post("/dev/token", json={"subject": "guest-1"}, headers={"Origin": web.url})
        assert got.status_code == status


async def test_without_rt_dev_there_is_no_such_call(serve: Serve) -> None:
    async with serve(worker=False, demo=True) as web:
        for path in ("/dev/token", "/dev/kill-worker"):
            got = await web.anonymous().post(path, json={"subject": "guest-1"}, headers={"Origin": web.url})
            assert (got.status_code, code(got)) == (404, "not_found")


@needs_node
def test_the_compiler_finds_no_fault_in_the_pages_scripts() -> None:
    done = subprocess.run(
        ["node", "node_modules/typescript/bin/tsc", "-p", "tsconfig.pages.json"], cwd=HOME, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout

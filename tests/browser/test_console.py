"""The console, as somebody uses it who looks after a server: in a real browser, on real processes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import expect

from rt.client import Client, Config, Job, connect
from rt.events import encode
from rt.keys import parse_stream
from rt.redis import Store
from rt.settings import load_settings
from rt.streams.log import StreamLog
from tests.browser.desk import OUT, Desk, Dev, Tab, needs_axe, needs_browser
from tests.helpers import eventually

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="session")]

LIVE = re.compile(r"^Live: \d+ processes$")
MARKUP = """<img src=x onerror="document.title='hacked'"><b>bold</b>"""


async def look(desk: Desk, hash: str = "", **more: Any) -> Tab:
    tab = await desk.tab(f"/console{hash}", **more)
    await expect(tab.page.locator("#state")).to_have_text(LIVE)
    return tab


@asynccontextmanager
async def speaking(dev: Dev, subject: str = "alice", **input: Any) -> AsyncIterator[tuple[Client, Job]]:
    """A job that goes on until it is cancelled, read by the session that submitted it."""
    async with connect(dev.url, token=dev.token(subject), config=Config(ack_every_s=0.05)) as client:
        job = client.submit("echo", {"text": "word " * 2000, "delay_ms": 50} | input)
        await job.accepted()
        reading = asyncio.ensure_future(_read(job))
        try:
            yield client, job
        finally:
            if not reading.done():
                await client.cancel(job.id or "")
            await reading


async def _read(job: Job) -> None:
    async for _ in job:
        pass


async def test_a_job_is_found_watched_on_its_way_cancelled_and_run_again(desk: Desk, dev: Dev) -> None:
    async with speaking(dev, "ada") as (client, job):
        tab = await look(desk)
        page = tab.page
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await expect(page).to_have_title("Jobs · rt console")
        await page.get_by_label("Owner").fill("ada")
        await page.get_by_role("button", name="Filter").click()
        # With the keyboard, and though the table is shown again each second.
        found = page.get_by_role("cell").get_by_title(job.id or "")
        await found.focus()
        for _ in range(3):
            async with page.expect_response(re.compile("/v1/console/jobs")):
                pass
        await expect(found).to_be_focused()
        await page.keyboard.press("Enter")

        way = page.get_by_role("list", name="The way of this job")
        steps = way.get_by_role("listitem")
        await expect(steps).to_contain_text(["ada", "told", "waited", "attempt 1 of 3", "events", "1 now"])
        assert (await steps.nth(0).get_by_role("link").get_attribute("title")) == client.session
        await expect(steps.nth(3)).to_contain_text("leased for")
        events = page.get_by_role("region", name="Events of this job")
        await expect(events.get_by_role("row")).to_contain_text(["Seq", "job.queued", "job.started", "job.delta"])
        before = int((await steps.nth(4).locator("strong").inner_text()).split()[0])
        await expect(steps.nth(4)).not_to_contain_text(f"{before} events")
        readers = page.get_by_role("region", name="Who reads this job")
        await expect(readers.get_by_role("cell", name=re.compile(r"^\d+ of \d+$"))).to_be_visible()
        await expect(page.locator("pre").first).to_contain_text('{"text":"word word')

        await page.get_by_role("button", name="Cancel").click()
        await expect(events.get_by_role("row").last).to_contain_text("job.cancelled")
        await expect(page.locator("#said")).to_have_text("Cancelled.")
        await expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        await page.get_by_role("button", name="Run again").click()
        await expect(page).not_to_have_url(re.compile(f"{job.id}$"))
        await expect(steps.nth(0)).to_contain_text("ada")
        await page.get_by_role("button", name="Cancel").click()
        await expect(events.get_by_role("row").last).to_contain_text("job.cancelled")


async def test_from_a_session_to_its_streams_and_back(desk: Desk, dev: Dev) -> None:
    async with speaking(dev, "ben") as (client, job):
        tab = await look(desk, "#/connections?subject=ben")
        page = tab.page
        row = page.get_by_role("region", name="Open WebSockets").get_by_role("row").nth(1)
        await expect(row).to_contain_text("ben")
        await expect(row).to_contain_text("rt-python")
        await row.get_by_role("link").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(client.session)
        follows = page.get_by_role("region", name="Streams that it follows")
        await expect(follows.get_by_role("row")).to_have_count(4)
        await follows.get_by_title(f"job:{job.id}").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(job.id or "")
        await page.goto(f"{dev.url}/console#/sessions")
        await page.get_by_label("Session id").fill(client.session)
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_role("region", name="Events of its own stream").get_by_role("row").nth(1)).to_contain_text("job.created")
        workers = page.get_by_role("link", name="Workers")
        await workers.click()
        await expect(page.get_by_role("region", name="Jobs that run now")).to_contain_text("echo")
        await page.get_by_role("link", name="Queue").click()
        await expect(page.get_by_role("region", name="Leases, the one that ends first on top")).to_contain_text("echo")


async def test_a_dead_letter_is_run_again_and_forgotten(desk: Desk, dev: Dev) -> None:
    async with dev.http("cleo") as http:
        body = {"job": "echo", "input": {"text": "word " * 100, "delay_ms": 50}, "options": {"timeout_s": 0.1}}
        job_id = (await http.post("/v1/jobs", json=body)).json()["job_id"]
        tab = await look(desk, "#/letters")
        page = tab.page
        row = page.get_by_role("row").filter(has=page.get_by_title(job_id))
        await expect(row).to_contain_text("timeout")
        await row.get_by_role("button", name=re.compile("Run again")).click()
        await expect(page.get_by_role("row").filter(has_text="timeout")).to_have_count(2)
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await row.get_by_role("button", name=re.compile("Forget")).click()
        await expect(row).to_have_count(0)
        await page.goto(f"{dev.url}/console#/jobs/{job_id}")
        await expect(page.get_by_role("region", name="Errors of its attempts")).to_contain_text("timeout")
        await expect(page.locator("pre").first).to_contain_text("Not kept: the dead letter")


async def test_a_long_stream_is_opened_page_by_page(desk: Desk, dev: Dev) -> None:
    store = Store(dev.redis_url)
    log = StreamLog(store, load_settings(REDIS_URL=dev.redis_url))
    room = parse_stream("room:long")
    await asyncio.gather(*(log.publish("-", room, encode("message", str(room), {"n": n}, 1)) for n in range(650)))
    await store.close()
    page = (await look(desk, "#/streams/room:long")).page
    events = page.get_by_role("region", name="Events")
    more = page.get_by_role("button", name="Show more")
    for left in ("201–500", "401–500"):
        await expect(events.get_by_role("row").filter(has=more)).to_contain_text(left)
        await more.click()
    await expect(more).to_have_count(0)
    assert await events.locator("tbody td:first-child").all_text_contents() == [str(seq) for seq in range(1, 651)]


async def test_text_of_others_stays_text(desk: Desk, dev: Dev) -> None:
    async with connect(dev.url, token=dev.token("gus")) as client:
        job = client.submit("echo", {"text": MARKUP})
        await _read(job)
    page = (await look(desk, f"#/jobs/{job.id}")).page
    await expect(page.get_by_role("region", name="Events of this job")).to_contain_text(MARKUP)
    await expect(page.locator("pre").nth(1)).to_contain_text("<b>bold</b>")
    assert await page.locator("main img, main b").count() == 0
    assert "hacked" not in await page.title()


async def test_an_address_that_means_nothing_is_no_fault(desk: Desk) -> None:
    tab = await desk.tab("/console#/jobs/%")
    await expect(tab.page.locator("#view")).to_have_text("there is no such job")
    await tab.page.evaluate("location.hash = '#/constructor/1'")
    await expect(tab.page).to_have_title("Overview · rt console")
    await expect(tab.page.locator("#state")).to_have_text(LIVE)
    tab.faults = [one for one in tab.faults if "404" not in one]


async def test_elsewhere_a_token_is_asked_for_and_where_it_is_read_only_nothing_can_be_done(desk: Desk, dev: Dev) -> None:
    process, url = dev.web(RT_CONSOLE="read")
    async with speaking(dev, "eve") as (_, job):
        tab = await desk.tab(f"/console#/jobs/{job.id}", profile="", url=url)
        page = tab.page
        await page.get_by_label("Token").fill(dev.token("eve"))
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_role("alert")).to_contain_text("lacks the scope admin")
        await page.get_by_label("Token").fill(dev.token("root", "admin"))
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("#state")).to_have_text(re.compile("read-only$"))
        await expect(page.get_by_text("running").first).to_be_visible()
        await expect(page.get_by_role("button", name=re.compile("Cancel|Run again|Forget"))).to_have_count(0)
        tab.faults = [one for one in tab.faults if "403" not in one]
    tab.weathered = True
    process.kill()
    await expect(page.locator("#state")).to_have_text("The server cannot be reached; trying again")


async def test_it_asks_nothing_while_nobody_sees_it(desk: Desk) -> None:
    page = (await look(desk)).page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    async def seen(yes: bool) -> None:
        await page.evaluate(
            """(hidden) => {
              Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            }""",
            not yes,
        )

    await seen(False)
    await page.wait_for_load_state("networkidle")
    del asked[:]
    await asyncio.sleep(1.3)  # that nothing comes can only be waited for
    assert asked == []
    await seen(True)
    await eventually(lambda: asked)


async def test_rates_and_percentiles_are_of_all_processes_that_were_there_before(desk: Desk) -> None:
    tab = await look(desk)
    told = await tab.page.evaluate(
        """async () => {
          const { History, within } = await import("/console/numbers.js");
          const numbers = (sent, counts) => ({ counts: { sent }, times: { t: { le: [0.01, 0.1], counts } } });
          const process = (name, sent, counts) =>
            ({ process: name, kind: "web", told: { cpu_s: sent / 100, numbers: numbers(sent, counts) } });
          const history = new History();
          const at = (at_ms, ...processes) => history.add({ at_ms, counts: {}, processes });
          at(1000, process("h.1.a", 100, [0, 0, 0]));
          at(2000, process("h.1.a", 110, [8, 10, 10]), process("h.2.b", 5000, [9, 9, 9]), process("h.2.c", 5000, [9, 9, 9]));
          at(4000, process("h.1.a", 130, [8, 10, 10]), process("h.2.b", 5040, [9, 9, 9]), process("h.2.c", 5040, [9, 9, 9]));
          at(5000, process("h.2.b", 5050, [9, 9, 9]), process("h.2.c", 5050, [9, 9, 9]));
          return {
            rates: history.counter("sent"), p50: history.percentile("t", 0.5), p90: history.percentile("t", 0.9), cpu: history.cpu("h.2.b"),
            nothing: within([1, 2], [0, 0, 0], 0.5), above: within([1, 2], [0, 0, 4], 0.5), within: within([1, 2], [2, 4, 4], 0.75),
          };
        }"""
    )
    assert told["rates"] == [None, 10, 30, 10], "a process that has just come counts in the next look, twins count once"
    assert told["p50"][1] == pytest.approx(0.00625)
    assert told["p90"][1] == pytest.approx(0.055)
    assert told["p50"][3] is None
    assert told["cpu"] == pytest.approx(0.1)
    assert (told["nothing"], told["above"], told["within"]) == (None, 2, 1.5)


@needs_axe
async def test_everybody_can_use_it(desk: Desk, dev: Dev, record_property: Callable[[str, object], None]) -> None:
    async with dev.http("fay") as http, speaking(dev, "fay") as (client, job):
        body = {"job": "echo", "input": {"text": "word " * 100, "delay_ms": 50}, "options": {"timeout_s": 0.1}}
        failed = (await http.post("/v1/jobs", json=body)).json()["job_id"]
        await http.post("/v1/jobs", json={"job": "echo", "input": {"text": "later"}, "options": {"delay_s": 600}})
        views = {name: f"#/{name}" for name in ("overview", "jobs", "queue", "workers", "connections", "sessions", "letters")}
        views |= {
            "job": f"#/jobs/{job.id}",
            "failed": f"#/jobs/{failed}",
            "session": f"#/sessions/{client.session}",
            "stream": "#/streams/user:fay",
        }
        tab = await look(desk)
        few = ("overview", "job", "connections")
        for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "dark")):
            await tab.page.set_viewport_size({"width": width, "height": 900})
            await tab.page.emulate_media(color_scheme=scheme)
            for view in views if name == "light" else few:
                async with tab.page.expect_response(re.compile("/v1/(console|dead-letters)")):
                    await tab.page.evaluate(f"location.hash = '{views[view]}'")
                await expect(
                    tab.page.locator("main").get_by_role("row").or_(tab.page.locator("main .none:not([hidden])")).first
                ).to_be_attached()
                assert await tab.faults_of_access() == [], (view, name)
                assert await tab.fits(), (view, name)
                if view in few:
                    await tab.shoot(f"console-{view}-{name}")
        record_property("told", f"pictures of the pages: {OUT}")

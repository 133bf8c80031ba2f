"""The demo page, as a person uses it: in a real browser, with a real worker, and with what breaks on the way."""

import re
from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.desk import Desk, Dev, Tab, needs_browser

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="session")]

LIVE = re.compile("^Live")


class Demo:
    """A tab with the demo."""

    def __init__(self, tab: Tab) -> None:
        self.tab, self.page = tab, tab.page
        self.state = tab.page.locator("#state")
        self.turn = tab.page.locator(".turn").last
        self.mark = self.turn.locator(".tag")

    @classmethod
    async def open(cls, desk: Desk, profile: str = "alice", **more: Any) -> "Demo":
        one = cls(await desk.tab("/demo", profile=profile, **more))
        await expect(one.state).to_have_text(LIVE)
        return one

    async def ask(self, prompt: str = "Once upon a time", length: int = 40, pace: int = 0) -> None:
        await self.page.locator("#length").select_option(str(length))
        await self.page.locator("#pace").select_option(str(pace))
        await self.page.get_by_label("Prompt").fill(prompt)
        await self.page.get_by_role("button", name="Send").click()

    async def streams(self, least: int = 30) -> None:
        """Waits until so many characters of the answer are there."""
        await self.page.wait_for_function(
            "(n) => [...document.querySelectorAll('.answer > p:first-child')].at(-1)?.textContent.length >= n", arg=least
        )

    async def cut(self, away: int = 1) -> None:
        await self.page.locator("#away").select_option(str(away))
        await self.page.get_by_role("button", name="Drop the connection").click()

    async def counts(self) -> dict[str, int]:
        names = ("events", "replayed", "resumes", "lost", "repeated")
        return {name: int((await self.page.locator(f"#count-{name}").inner_text()).replace(",", "")) for name in names}

    async def job(self, dev: Dev, subject: str = "alice") -> dict[str, Any]:
        """The newest job `generate` of a subject, as the server tells it."""
        async with dev.http(subject) as http:
            (job,) = (await http.get("/v1/jobs", params={"job": "generate", "limit": 1})).json()["items"]
            return dict((await http.get(f"/v1/jobs/{job['job_id']}")).json())

    async def whole(self, dev: Dev, subject: str = "alice") -> dict[str, Any]:
        """Waits for the end of the answer, which is the job's result to the letter."""
        await expect(self.mark).to_have_text("completed", timeout=20_000)
        job = await self.job(dev, subject)
        shown = await self.turn.locator(".answer > p").first.text_content()
        assert shown == job["result"]["text"].lstrip()
        counts = await self.counts()
        assert (counts["lost"], counts["repeated"]) == (0, 0)
        return job


async def test_an_answer_streams_while_one_sees_how_the_prompt_sounds(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "ann")
    page = demo.page
    await page.get_by_label("Prompt").fill("I hate it, it is terrible")
    await expect(page.get_by_role("meter", name="Sentiment")).to_have_attribute("aria-valuetext", re.compile("^negative −"))
    await page.get_by_label("Prompt").fill("What a wonderful day, I love it")
    await expect(page.locator("#mood-text")).to_have_text(re.compile(r"^positive \+0\.\d\d$"))
    await demo.ask(length=40, pace=40)
    await expect(demo.mark).to_have_text("streaming")
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    await expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuetext", re.compile(r"^[1-3]?\d of 40 tokens$"))
    await demo.whole(dev, "ann")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    await expect(page.locator("#first-last")).to_have_text(re.compile(r" (ms|s)$"))
    await expect(page.locator("#event-p50")).to_have_text(re.compile(r" (ms|s)$"))
    # Whole sentences were said to who hears the page, and how it ended.
    await expect(page.locator("#chat-said")).to_have_text(re.compile(r"Answer completed\.$"))


async def test_a_dropped_connection_costs_nothing(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk)
    await demo.ask(length=40, pace=40)
    await demo.streams()
    await demo.cut()
    await expect(demo.state).to_have_text(re.compile("^(Reconnecting|Connecting)"))
    await expect(demo.state).to_have_text(re.compile(r"^Live, resumed: \d+ events replayed$"))
    await expect(demo.page.locator("#weather")).to_have_text(re.compile(r"^Resumed after \d+\.\d s: \d+ events replayed"))
    await demo.whole(dev)
    counts = await demo.counts()
    assert counts["replayed"] > 5
    assert counts["resumes"] == 1


async def test_a_reload_goes_on_where_the_page_was(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk)
    await demo.ask(length=40, pace=40)
    await demo.streams()
    await demo.page.get_by_role("button", name="Reload this tab").click()
    await demo.page.wait_for_event("load")
    await expect(demo.state).to_have_text(re.compile("^Live, resumed"))
    await demo.whole(dev)
    assert await demo.page.locator(".turn").count() == 1
    # And what has ended is there without its job.
    await demo.page.reload()
    await expect(demo.mark).to_have_text("completed")


async def test_a_prompt_that_nobody_has_confirmed_survives_a_reload(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "ben")
    await demo.cut(8)
    await demo.ask("The quick brown fox", length=40)
    await expect(demo.mark).to_have_text("sent")
    await demo.page.reload()
    job = await demo.whole(dev, "ben")
    async with dev.http("ben") as http:
        assert len((await http.get("/v1/jobs", params={"job": "generate"})).json()["items"]) == 1
    assert job["status"] == "completed"


async def test_stop_reaches_the_model(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "cleo")
    await demo.ask(length=400, pace=120)
    await demo.streams(10)
    await demo.page.get_by_role("button", name="Stop").click()
    await expect(demo.mark).to_have_text("stopped")
    assert (await demo.job(dev, "cleo"))["status"] == "cancelled"
    await demo.ask(length=40)
    await demo.whole(dev, "cleo")


async def test_text_of_others_stays_text(desk: Desk) -> None:
    alice = await Demo.open(desk)
    bob = await Demo.open(desk, "bob")
    markup = """<img src=x onerror="document.title='hacked'"><b>bold</b>"""
    await alice.page.get_by_label("Message").fill(markup)
    await alice.page.get_by_role("button", name="Say").click()
    said = bob.page.locator("#room-log li").last
    await expect(said).to_contain_text(markup)
    await expect(said).to_contain_text("alice")
    assert await bob.page.locator("#room-log img, #room-log li b b").count() == 0
    assert await bob.page.title() == "rt: demo"
    # Nothing can make markup of a text here.
    with pytest.raises(Exception, match="TrustedHTML"):
        await bob.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    bob.tab.faults.clear()


async def test_every_frame_is_in_the_log_and_no_credential(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "dora")
    await demo.ask(length=40)
    await demo.whole(dev, "dora")
    rows = demo.page.locator("#frames li")
    await demo.page.get_by_label("Show frames that contain").fill("job.completed")
    await expect(rows.first).to_contain_text("job.completed")
    await demo.page.get_by_label("Show frames that contain").fill("connect")
    await rows.filter(has_text="client").locator("summary").click()
    await expect(rows.locator("pre")).to_contain_text('"token": "…"')
    text = await demo.page.locator("#frames").inner_text()
    assert "eyJ" not in text
    await demo.page.get_by_label("out", exact=True).uncheck()
    await expect(rows.filter(has_text="→ out")).to_have_count(0)
    await demo.page.get_by_label("Show frames that contain").fill("")
    await demo.page.get_by_role("button", name="Clear").click()
    await demo.ask(length=400)
    await demo.whole(dev, "dora")
    for _ in range(3):
        await demo.page.evaluate("document.getElementById('prompt').dispatchEvent(new Event('input'))")
    assert 0 < await rows.count() <= 500
    session = await demo.page.evaluate("Object.entries(sessionStorage).map(([name, value]) => name.startsWith('rt:demo:') && value).join()")
    ids = re.findall(r'"session":"([^"]+)"', session)
    assert ids
    assert ids[0] not in await demo.page.locator("body").inner_text()


async def test_it_works_by_keyboard_alone(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "eve")
    keyboard = demo.page.keyboard
    await keyboard.press("Tab")
    await expect(demo.page.get_by_role("link", name="Skip to the chat")).to_be_focused()
    await keyboard.press("Enter")
    await keyboard.press("Tab")
    await expect(demo.page.get_by_role("region", name="Conversation")).to_be_focused()
    await keyboard.press("Tab")
    await expect(demo.page.get_by_label("Prompt")).to_be_focused()
    await demo.page.locator("#pace").select_option("0")
    await keyboard.press("Enter")
    await demo.whole(dev, "eve")
    await demo.page.get_by_role("tab", name="JavaScript").focus()
    await keyboard.press("ArrowRight")
    await expect(demo.page.get_by_role("tab", name="Python")).to_be_focused()
    await expect(demo.page.get_by_role("tabpanel", name="Python")).to_contain_text("asyncio.run(main())")
    await keyboard.press("End")
    await expect(demo.page.get_by_role("tab", name="curl")).to_have_attribute("aria-selected", "true")

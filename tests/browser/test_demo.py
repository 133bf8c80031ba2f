"""The demo page, as a person uses it: in a real browser, with a real worker, and with what breaks on the way."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import pytest
import websockets
from playwright.async_api import WebSocketRoute, expect

from rt.codec import from_json_bytes, to_json_bytes
from rt.tokens import LEEWAY_S, SCOPES
from tests.browser.desk import OUT, Desk, Dev, Tab, needs_axe, needs_browser
from tests.helpers import eventually

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


async def test_a_prompt_that_nobody_has_confirmed_is_sent_again_and_asked_once(desk: Desk, dev: Dev) -> None:
    deaf: list[bool] = []

    def connect(page: WebSocketRoute) -> None:
        """The first connection says nothing more once it has carried the submission."""
        server, first = page.connect_to_server(), not deaf
        deaf.append(False)

        def sent(text: str | bytes) -> None:
            deaf[0] = deaf[0] or '"generate"' in str(text)
            server.send(text)

        page.on_message(sent)
        server.on_message(lambda text: None if first and deaf[0] else page.send(text))

    await (await desk.profile("ben")).route_web_socket(re.compile("/v1/ws$"), connect)
    demo = await Demo.open(desk, "ben")
    await demo.ask(length=40)
    async with dev.http("ben") as http:

        async def asked() -> int:
            return len((await http.get("/v1/jobs", params={"job": "generate"})).json()["items"])

        await eventually(asked)
        await expect(demo.mark).to_have_text("sent")
        await demo.page.reload()
        await demo.whole(dev, "ben")
        assert await asked() == 1


async def test_an_answer_goes_on_when_its_worker_is_killed(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "mia")
    await demo.ask(length=40, pace=120)
    await demo.streams()
    await demo.page.get_by_role("button", name="Kill the worker").click()
    await expect(demo.page.locator("#weather")).to_have_text(re.compile("^The worker was killed"))
    job = await demo.whole(dev, "mia")
    assert job["attempt"] == 2
    await expect(demo.turn.locator(".words")).to_contain_text("went on in attempt 2")


async def test_a_session_that_somebody_took_is_taken_back(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "pia")
    await demo.ask(length=40, pace=40)
    await demo.streams(10)
    kept = await demo.page.wait_for_function("() => sessionStorage.getItem('rt:demo:pia')")
    session = from_json_bytes(await kept.json_value())["session"]
    async with websockets.connect(f"{dev.url.replace('http', 'ws')}/v1/ws", close_timeout=0.1) as thief:
        await thief.send(to_json_bytes({"type": "connect", "token": dev.token("pia"), "session": session}).decode())
        await expect(demo.state).to_have_text("Open in another tab")
        await demo.page.get_by_role("button", name="Take the session back").click()
        await expect(demo.state).to_have_text(re.compile("^Live, resumed"))
    await demo.whole(dev, "pia")


async def test_what_is_lost_or_comes_twice_would_be_counted(desk: Desk) -> None:
    tab = await desk.tab("/demo", profile="ned")
    counts = await tab.page.evaluate(
        """async () => {
          const { Ledger } = await import("/demo/ledger.js");
          const counted = (last, items) => {
            sessionStorage.removeItem("rt:demo:counts");
            const ledger = new Ledger(() => {});
            items.forEach(ledger.check(last));
            return [ledger.counts.lost, ledger.counts.repeated];
          };
          const gap = (first, last) => ({ type: "gap", first, last });
          return {
            whole: counted(0, [{ seq: 1 }, { seq: 2 }, { seq: 3 }]),
            begins_late: counted(0, [{ seq: 3 }]),
            hole: counted(null, [{ seq: 7 }, { seq: 8 }, { seq: 12 }]),
            twice: counted(null, [{ seq: 7 }, { seq: 8 }, { seq: 7 }]),
            gap: counted(0, [{ seq: 1 }, gap(2, 5), { seq: 6 }]),
            gap_that_overlaps: counted(0, [{ seq: 1 }, { seq: 2 }, gap(2, 5), { seq: 6 }]),
            unknown: counted(0, [{ seq: 1 }, gap(null, null), { seq: 6 }]),
            older_than_what_one_has: counted(null, [gap(1, 5), { seq: 6 }]),
          };
        }"""
    )
    assert counts == {
        "whole": [0, 0],
        "begins_late": [2, 0],
        "hole": [3, 0],
        "twice": [0, 1],
        "gap": [4, 0],
        "gap_that_overlaps": [3, 0],
        "unknown": [1, 0],
        "older_than_what_one_has": [0, 0],
    }


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
    await alice.page.get_by_role("textbox", name="Message").fill(markup)
    await alice.page.get_by_role("button", name="Say").click()
    said = bob.page.locator("#room-log p").last
    await expect(said).to_contain_text(markup)
    await expect(said).to_contain_text("alice")
    assert await bob.page.locator("#room-log img, #room-log b b").count() == 0
    assert await bob.page.title() == "rt: demo"
    # Nothing can make markup of a text here.
    with pytest.raises(Exception, match="TrustedHTML"):
        await bob.page.evaluate("document.body.innerHTML = '<b>x</b>'")
    await eventually(lambda: len(bob.tab.faults) > 1)
    assert [one for one in bob.tab.faults if "TrustedHTML" not in one and "require-trusted-types-for" not in one] == []
    bob.tab.faults.clear()


async def test_every_frame_is_in_the_log_and_no_credential(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "dora")
    await demo.ask(length=40)
    await demo.whole(dev, "dora")
    rows = demo.page.locator("#frames details")
    await demo.page.get_by_label("Show frames that contain").fill("job.completed")
    await expect(rows.first).to_contain_text("job.completed")
    await demo.page.get_by_label("Show frames that contain").fill("connect")
    await rows.filter(has_text="client").locator("summary").click()
    await expect(rows.locator("pre")).to_contain_text('"token": "…"')
    kept = await demo.page.wait_for_function("() => sessionStorage.getItem('rt:demo:dora')")
    session = from_json_bytes(await kept.json_value())["session"]
    text = await demo.page.locator("#frames").text_content() or ""
    assert "connected" in text
    assert session not in text
    assert "eyJ" not in text
    await demo.page.get_by_label("out", exact=True).uncheck()
    await expect(rows.filter(has_text="→ out")).to_have_count(0)
    await demo.page.get_by_role("button", name="Clear").click()
    await expect(rows).to_have_count(0)


async def test_the_log_of_frames_is_bounded(desk: Desk) -> None:
    demo = await Demo.open(desk, "oda")
    await demo.page.evaluate(
        """async () => {
          const { Frames } = await import("/demo/frames.js");
          const frames = new Frames();
          for (const _ of "123") {
            for (let seq = 0; seq < 300; seq++) frames.add("in", { type: "job.delta", stream: "job:1", seq }, 10);
            while (frames.fresh.length) await new Promise((resolve) => setTimeout(resolve, 5));
          }
        }"""
    )
    assert await demo.page.locator("#frames details").count() == 500


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


# Rooms, notifications


async def test_two_tabs_in_a_room_and_who_is_there(desk: Desk, dev: Dev) -> None:
    fay, gus = await Demo.open(desk, "fay"), await Demo.open(desk, "gus")
    for demo in (fay, gus):
        await demo.page.get_by_label("Name of the room").fill("two-tabs")
        await demo.page.get_by_role("button", name="Join").click()
        await expect(demo.page.locator("#here li").first).to_be_visible()
    await expect(fay.page.locator("#here li")).to_have_text(["fay (you)", "gus"])
    await expect(fay.page.locator("#room-log")).to_contain_text("gus has come")
    for demo, text in ((fay, "hello"), (gus, "hello yourself")):
        await demo.page.get_by_role("textbox", name="Message").fill(text)
        await demo.page.keyboard.press("Enter")
        for other in (fay, gus):
            await expect(other.page.locator("#room-log p").last).to_contain_text(text)
    # A second tab of the same person is a second session, and not a second person.
    again = await Demo.open(desk, "gus")
    await again.page.get_by_label("Name of the room").fill("two-tabs")
    await again.page.get_by_role("button", name="Join").click()
    await expect(fay.page.locator("#here li")).to_have_text(["fay (you)", "gus 2 sessions"])
    # Who was away reads what was said, in order.
    async with dev.http("fay") as http:
        # All that takes long is done before the line is cut.
        await http.get("/livez")
        await gus.cut(3)
        for number in range(3):
            sent = await http.post("/v1/streams/room:two-tabs/events", json={"data": {"text": f"while away {number}"}})
            assert sent.status_code == 201
    await expect(gus.page.locator("#room-log p").last).to_contain_text("while away 2")
    said = await gus.page.locator("#room-log span").all_inner_texts()
    assert said == ["hello", "hello yourself", *(f"while away {number}" for number in range(3))]
    counts = await gus.counts()
    assert (counts["lost"], counts["repeated"]) == (0, 0)
    assert counts["replayed"] >= 3


async def test_who_was_on_a_server_that_is_killed_is_gone_from_the_list_within_5_s(desk: Desk, dev: Dev) -> None:
    other, url = dev.web(RT_DEV="1")
    hal = await Demo.open(desk, "hal")
    ida = await Demo.open(desk, "ida", url=url)
    ida.tab.weathered = True
    for demo in (hal, ida):
        await demo.page.get_by_label("Name of the room").fill("killed")
        await demo.page.get_by_role("button", name="Join").click()
    await expect(hal.page.locator("#here li")).to_have_text(["hal (you)", "ida"])
    other.kill()
    async with dev.http() as http:

        async def there() -> list[str]:
            return [one["subject"] for one in (await http.get("/v1/streams/room:killed/presence")).json()["items"]]

        await eventually(lambda: _is(there, ["hal"]), within_s=5)
    await expect(hal.page.locator("#here li")).to_have_text(["hal (you)"])
    # Nobody has left: a restart is no news.
    assert "ida has left" not in await hal.page.locator("#room-log").inner_text()
    await expect(ida.state).to_have_text(re.compile("^(Reconnecting|Connecting)"))


async def _is(what: Callable[[], Awaitable[object]], wanted: object) -> bool:
    return await what() == wanted


async def test_a_notification_waits_for_a_tab_that_is_away(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "jan")
    await demo.cut(1)
    async with dev.http("tests") as http:
        sent = await http.post(
            "/v1/notifications", json={"user": "jan", "title": "<i>Done</i>", "message": "While away", "level": "success"}
        )
        assert sent.status_code == 201
    await expect(demo.state).to_have_text(re.compile(r"^Live, resumed: \d+ events? replayed$"))
    first = demo.page.locator("#notices p").first
    await expect(first).to_contain_text("<i>Done</i> While away")
    await expect(first.locator(".tag")).to_have_text("success")
    await expect(demo.page.locator("#unread")).to_have_text("1 unread")
    # To oneself, from here; and read, on all devices.
    second = await Demo.open(desk, "jan")
    await demo.page.get_by_label("Level").select_option("error")
    await demo.page.get_by_role("button", name="Notify").click()
    for one in (demo, second):
        await expect(one.page.locator("#notices p")).to_have_count(2)
        await expect(one.page.locator("#unread")).to_have_text("2 unread")
    await demo.page.get_by_role("button", name="Mark all as read").click()
    for one in (demo, second):
        await expect(one.page.locator("#unread")).to_have_text("0 unread")


# What one takes away


async def test_what_is_copied_runs(desk: Desk, dev: Dev) -> None:
    demo = await Demo.open(desk, "kim")
    await (await desk.profile("kim")).grant_permissions(["clipboard-read", "clipboard-write"])
    await demo.page.locator("#length").select_option("40")
    await demo.page.get_by_label("Prompt").fill('It\'s "quoted" \\ and $HOME')

    async def copied(language: str) -> str:
        await demo.page.get_by_role("tab", name=language).click()
        assert "eyJ" in await demo.page.locator("#code").inner_text()
        await demo.page.get_by_role("button", name="Copy").click()
        await expect(demo.page.locator("#copied")).to_have_text("Copied, with your token in it.")
        text = await demo.page.evaluate("navigator.clipboard.readText()")
        # What is shown is not the whole token; what is copied is.
        assert "…" not in text
        return str(text)

    python = await asyncio.to_thread(_run, [sys.executable, "-c", await copied("Python")])
    assert len(python) > 20
    shell = await asyncio.to_thread(_run, ["sh", "-c", await copied("curl")])
    assert "event: job.completed" in shell
    script = await copied("JavaScript")
    # The page's own policy takes no script from a text; the first line names the client that it loads.
    first, rest = script.split("\n", 1)
    assert first == f'import {{ connect }} from "{dev.url}/rt.js";'
    async with demo.page.expect_console_message() as told:
        await demo.page.evaluate(f'async () => {{ const {{ connect }} = await import("{dev.url}/rt.js"); {rest} }}')
    assert len((await told.value).text) > 20


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


async def test_elsewhere_somebody_signs_in_with_a_token(desk: Desk, dev: Dev) -> None:
    _, url = dev.web(RT_DEMO="true")
    tab = await desk.tab("/demo", profile="lou", url=url)
    tab.weathered = True
    dialog = tab.page.get_by_role("dialog", name="Sign in")
    await expect(dialog).to_be_visible()
    for _ in "12":
        await tab.page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Token").fill("not.a.token")
    await dialog.get_by_role("button").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("not valid")
    token = dev.token("lou", "jobs:write", "jobs:read", "streams:read")
    await dialog.get_by_label("Token").fill(token)
    await dialog.get_by_role("button").click()
    await expect(tab.page.locator("#state")).to_have_text(LIVE)
    await expect(tab.page.locator("#who")).to_have_text("lou")
    await expect(tab.page.locator("#kill")).to_be_hidden()
    assert token not in tab.page.url
    await tab.page.reload()
    await expect(tab.page.locator("#state")).to_have_text(LIVE)
    # What this token may not do is said where it was tried.
    await tab.page.get_by_role("button", name="Notify").click()
    await expect(tab.page.locator("#notices-fault")).to_contain_text("notifications:send")
    await eventually(lambda: any("403" in one for one in tab.faults))
    tab.faults = [one for one in tab.faults if "403" not in one]


async def test_elsewhere_a_token_that_expires_is_asked_for_again(desk: Desk, dev: Dev) -> None:
    _, url = dev.web(RT_DEMO="true")
    tab = await desk.tab("/demo", profile="mo", url=url)
    dialog = tab.page.get_by_role("dialog", name="Sign in")
    over = int(time.time() - LEEWAY_S) + 4
    token = jwt.encode({"sub": "mo", "scope": " ".join(SCOPES), "iat": over - 60, "exp": over}, dev.secret, "HS256")
    await dialog.get_by_label("Token").fill(token)
    await dialog.get_by_role("button").click()
    await expect(tab.page.locator("#state")).to_have_text(LIVE)
    await expect(dialog.get_by_role("alert")).to_contain_text("expired")
    tab.faults = [one for one in tab.faults if "401" not in one]


# How it looks


@needs_axe
async def test_everybody_can_use_it(desk: Desk, dev: Dev, record_property: Callable[[str, object], None]) -> None:
    demo = await Demo.open(desk, "look")
    await demo.page.get_by_role("button", name="Notify").click()
    await demo.page.get_by_role("textbox", name="Message").fill("Hello everybody")
    await demo.page.get_by_role("button", name="Say").click()
    await demo.ask("What a wonderful day!", length=40, pace=40)
    await demo.streams()
    await demo.cut(1)
    await demo.whole(dev, "look")
    await expect(demo.page.locator("#notices p")).to_have_count(1)
    looks = (
        ("light", 1280, "light", ""),
        ("dark", 1280, "dark", "color-contrast"),
        ("tablet", 768, "light", None),
        ("phone", 360, "dark", ""),
    )
    for name, width, scheme, rule in looks:
        await demo.page.set_viewport_size({"width": width, "height": 900})
        await demo.page.emulate_media(color_scheme=scheme)
        if rule is not None:
            assert await demo.tab.faults_of_access(rule) == [], name
        assert await demo.tab.fits(), name
        await demo.tab.shoot(f"demo-{name}")
    record_property("told", f"pictures of the pages: {OUT}")

"""A real browser before a real `rt dev`: tabs that notice every fault, and pictures of what was seen."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from rt.codec import from_json_bytes
from rt.tokens import SCOPES, mint
from tests.chaos.stack import Process, free_port
from tests.clients.javascript import HOME

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
#: A profile of its own comes with each launch; nothing is fetched, and nobody outside is asked.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="NOT TESTED: the pages. There is no browser here; on Debian and Ubuntu: apt-get install chromium"
)

needs_axe = pytest.mark.skipif(
    not (HOME / "node_modules" / "axe-core").is_dir(),
    reason="NOT TESTED: access to the pages for everybody. Install what it needs: cd clients/js && npm install --no-package-lock",
)

#: Pictures of the last run, for who wants to look.
OUT = Path(__file__).parent / "out"
#: What a browser says by itself of a socket, or a call, to a server that was killed.
WEATHER = re.compile(r"WebSocket connection to|net::ERR_|Failed to load resource: the server responded with a status of 503")

expect.set_options(timeout=10_000)


@dataclass
class Dev:
    """A `rt dev`, which has a folder of its own; `web()` starts more servers on its Redis."""

    folder: Path
    process: Process
    url: str
    redis_url: str
    secret: str
    webs: list[Process] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path) -> "Dev":
        process = Process("dev", "--port", "0", env={"RT_LEASE_S": "2", "RT_DRAIN_S": "1"}, folder=folder)
        url = process.wait_ready(60).split()[1]
        state = from_json_bytes((folder / ".rt" / "dev.json").read_bytes())
        return cls(folder, process, url, state["redis_url"], (folder / ".rt" / "secret").read_text().strip())

    def web(self, **env: str) -> tuple[Process, str]:
        """Another server, as `rt web` starts it; its address."""
        port = str(free_port())
        given = {"REDIS_URL": self.redis_url, "RT_SECRET": self.secret, "RT_HOST": "127.0.0.1", "PORT": port, "RT_DRAIN_S": "1", **env}
        one = Process("web", env=given)
        self.webs.append(one)
        one.wait_ready()
        return one, f"http://127.0.0.1:{port}"

    def token(self, subject: str, *scopes: str) -> str:
        """By default with all scopes but `admin`."""
        return mint(self.secret, subject, scopes or [one for one in SCOPES if one != "admin"], 600)

    def http(self, subject: str = "tests", *scopes: str, url: str = "") -> httpx2.AsyncClient:
        """A client with a token of this subject; close it."""
        headers = {"Authorization": f"Bearer {self.token(subject, *scopes)}"}
        return httpx2.AsyncClient(base_url=url or self.url, headers=headers, timeout=10, trust_env=False)

    def end(self) -> None:
        for one in (*self.webs, self.process):
            if one.popen.poll() is None:
                one.terminate()
            one.end()
        assert [line for one in (*self.webs, self.process) for line in one.tracebacks()] == []


class Tab:
    """A page, and what went wrong in it: errors, warnings, whatever its policy forbids, calls that failed."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        #: Servers are killed while it is open: what a browser says of that by itself is no fault.
        self.weathered = False
        page.on("console", lambda one: self.faults.append(f"{one.type}: {one.text}") if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))

    def check(self) -> None:
        left = [one for one in self.faults if not (self.weathered and WEATHER.search(one))]
        assert left == [], left

    async def shoot(self, name: str) -> None:
        """Keeps a picture of the whole page, from its top."""
        OUT.mkdir(exist_ok=True)
        await self.page.evaluate("scrollTo(0, 0)")
        await self.page.screenshot(path=OUT / f"{name}.png", full_page=True, animations="disabled")

    async def faults_of_access(self, rule: str = "") -> list[str]:
        """What axe-core, which `clients/js` installs, finds serious or critical, by one of its rules or by all."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate((HOME / "node_modules" / "axe-core" / "axe.min.js").read_text())
        only = {"runOnly": [rule]} if rule else {}
        found = await self.page.evaluate("(only) => axe.run(document, { resultTypes: ['violations'], ...only })", only)
        return [
            f"{one['impact']}: {one['id']}: {', '.join(str(node['target'][0]) for node in one['nodes'])}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    async def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


class Desk:
    """Opens tabs: those of one `profile` share cookies and storage, as those of one person do."""

    def __init__(self, browser: Browser, dev: Dev) -> None:
        self.dev = dev
        self._browser = browser
        self._profiles: dict[str, BrowserContext] = {}
        self._tabs: list[Tab] = []

    async def profile(self, name: str, *, width: int = 1280, height: int = 900) -> BrowserContext:
        """Made at first, with a window of this size."""
        if name not in self._profiles:
            made = await self._browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
            made.set_default_timeout(10_000)
            await made.add_init_script(
                "addEventListener('securitypolicyviolation', (event) => console.error('forbidden', event.violatedDirective))"
            )
            if name:
                # What a page of `rt dev` would draw by chance.
                await made.add_init_script(f"localStorage.setItem('rt:subject', '{name}')")
            self._profiles[name] = made
        return self._profiles[name]

    async def tab(self, path: str, *, profile: str = "alice", url: str = "", **window: int) -> Tab:
        context = await self.profile(profile, **window)
        tab = Tab(await context.new_page())
        self._tabs.append(tab)
        await tab.page.goto((url or self.dev.url) + path)
        return tab

    async def close(self) -> None:
        """Raises AssertionError that names what went wrong in any tab."""
        for context in self._profiles.values():
            await context.close()
        for tab in self._tabs:
            tab.check()

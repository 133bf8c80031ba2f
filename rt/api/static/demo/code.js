/**
 * What the page does, as code for somebody else's program: with this server's address, and the token of whoever copies it.
 * @module
 */
import { the } from "../pages/dom.js";

/** @typedef {"javascript" | "python" | "curl"} Language */
/** @typedef {{host: string, token: string, prompt: string, max_tokens: number, room: string, said: string, user: string, title: string, level: string}} Now */

const json = JSON.stringify;
/** A flat object, as JavaScript and Python write it. @param {Record<string, string | number>} one */
const flat = (one) => `{${Object.entries(one).map(([name, value]) => `${json(name)}: ${json(value)}`).join(", ")}}`;
/** For a shell, between single quotes. @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** @param {Now} now @param {string} body */
const javascript = ({ host, token }, body) => `import { connect } from ${json(`${host}/rt.js`)};

const rt = await connect(${json(host)}, { token: ${json(token)} });
${body}
await rt.close();`;

/** @param {Now} now @param {string} body */
const python = ({ host, token }, body) => `import asyncio
from rt.client import connect

async def main() -> None:
    async with connect(${json(host)}, token=${json(token)}) as rt:
${body.replace(/^/gm, "        ")}

asyncio.run(main())`;

/** @param {Now} now @param {string} path @param {any} body */
const curl = ({ host, token }, path, body) => `curl -sS ${quoted(host + path)} \\
  -H ${quoted(`Authorization: Bearer ${token}`)} \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(json(body))}`;

/** @param {Now} now @param {any} body */
const followed = (now, body) => `job=$(${curl(now, "/v1/jobs", body)} | sed 's/.*"job_id": *"\\([^"]*\\)".*/\\1/')

curl -sSN "${now.host}/v1/jobs/$job/events" \\
  -H ${quoted(`Authorization: Bearer ${now.token}`)}`;

/** @type {Record<string, Record<Language, (now: Now) => string>>} */
const ACTIONS = {
  ask: {
    javascript: (now) =>
      javascript(
        now,
        `let answer = "";
for await (const piece of rt.submit("generate", ${flat({ prompt: now.prompt, max_tokens: now.max_tokens })}).text()) {
  answer = answer.slice(0, piece.start) + piece;
}
console.log(answer);`,
      ),
    python: (now) =>
      python(
        now,
        `async for piece in rt.submit("generate", ${flat({ prompt: now.prompt, max_tokens: now.max_tokens })}).text():
    print(piece, end="", flush=True)`,
      ),
    curl: (now) => followed(now, { job: "generate", input: { prompt: now.prompt, max_tokens: now.max_tokens } }),
  },
  mood: {
    javascript: (now) => javascript(now, `console.log(await rt.submit("sentiment", ${flat({ text: now.prompt })}).result());`),
    python: (now) => python(now, `print(await rt.submit("sentiment", ${flat({ text: now.prompt })}).result())`),
    curl: (now) => followed(now, { job: "sentiment", input: { text: now.prompt } }),
  },
  say: {
    javascript: (now) => javascript(now, `await rt.publish(${json(now.room)}, ${flat({ text: now.said })});`),
    python: (now) => python(now, `await rt.publish(${json(now.room)}, ${flat({ text: now.said })})`),
    curl: (now) => curl(now, `/v1/streams/${now.room}/events`, { data: { text: now.said } }),
  },
  notify: {
    javascript: ({ host, token, user, title, level }) => `await fetch(${json(`${host}/v1/notifications`)}, {
  method: "POST",
  headers: { Authorization: ${json(`Bearer ${token}`)}, "Content-Type": "application/json" },
  body: JSON.stringify(${flat({ user, title, level })}),
});`,
    python: ({ host, token, user, title, level }) => `from rt.client.http import HttpClient

with HttpClient(${json(host)}, token=${json(token)}) as rt:
    rt.notify(${json(user)}, ${json(title)}, level=${json(level)})`,
    curl: (now) => curl(now, "/v1/notifications", { user: now.user, title: now.title, level: now.level }),
  },
};

export class Code {
  /** @type {Language} */
  language = "javascript";

  /** @param {import("../pages/sign-in.js").Me} me */
  constructor(me) {
    this.me = me;
    this.tabs = /** @type {Record<Language, HTMLElement>} */ ({ javascript: the("tab-javascript"), python: the("tab-python"), curl: the("tab-curl") });
    const languages = /** @type {Language[]} */ (Object.keys(this.tabs));
    languages.forEach((language, index) => {
      const tab = this.tabs[language];
      tab.addEventListener("click", () => this.choose(language));
      tab.addEventListener("keydown", ({ key }) => {
        const to = { ArrowRight: index + 1, ArrowLeft: index - 1 + languages.length, Home: 0, End: languages.length - 1 }[key];
        if (to !== undefined) this.choose(languages[to % languages.length]).focus();
      });
    });
    document.addEventListener("input", () => this.show());
    the("copy").addEventListener("click", () => this.copy());
    this.show();
  }

  /** @param {Language} language */
  choose(language) {
    this.language = language;
    for (const [name, tab] of Object.entries(this.tabs)) {
      tab.setAttribute("aria-selected", String(name === language));
      tab.tabIndex = name === language ? 0 : -1;
    }
    the("code").setAttribute("aria-labelledby", this.tabs[language].id);
    this.show();
    return this.tabs[language];
  }

  /** @param {string} token */
  text(token) {
    const value = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (the(id)).value;
    return ACTIONS[value("action")][this.language]({
      host: location.origin,
      token,
      prompt: value("prompt") || "Once upon a time",
      max_tokens: +value("length"),
      room: `room:${value("room-name")}`,
      said: value("room-text") || "hello",
      user: value("notice-to"),
      title: value("notice-title"),
      level: value("notice-level"),
    });
  }

  show() {
    // Somebody may look over a shoulder.
    the("code").textContent = this.text(`${this.me.token_text.slice(0, 12)}…`);
    the("copied").textContent = "What is copied holds your token whole.";
  }

  async copy() {
    const text = this.text(await this.me.token());
    const done = await navigator.clipboard?.writeText(text).then(
      () => true,
      () => false,
    );
    if (!done) {
      // No leave, or no secure context: shown whole, to be copied by hand.
      the("code").textContent = text;
      getSelection()?.selectAllChildren(the("code"));
    }
    the("copied").textContent = done ? "Copied, with your token in it." : "Selected, with your token in it: copy it by hand.";
  }
}

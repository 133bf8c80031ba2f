/**
 * The demo: signs in, opens one session, and gives it to the parts of the page.
 * @module
 */
import { SessionStore, Stopped, connect } from "../rt.js";
import { el, the } from "../pages/dom.js";
import { signIn } from "../pages/sign-in.js";
import { Chat } from "./chat.js";
import { Code } from "./code.js";
import { Frames } from "./frames.js";
import { Latency } from "./latency.js";
import { Ledger } from "./ledger.js";
import { Notices } from "./notices.js";
import { Room } from "./room.js";
import { Line } from "./socket.js";
import { Weather } from "./weather.js";

const me = await signIn(["jobs:write", "jobs:read", "streams:publish", "streams:read", "notifications:send"]);
for (const name of me.server.pages) {
  if (name !== "demo") the("pages").append(el("a", { href: `/${name}` }, name[0].toUpperCase() + name.slice(1)));
}

const frames = new Frames();
const latency = new Latency();
const ledger = new Ledger(() => weather.counts());
const line = new Line((direction, frame, bytes) => {
  frames.add(direction, frame, bytes);
  if (direction === "out") return;
  if (frame.type === "connected") weather.connected(frame.resumed);
  const replayed = ledger.take(frame);
  if (frame.type === "job.delta") latency.add(replayed ? "replayed" : "event", Date.now() - frame.ts);
});
const weather = new Weather(ledger, line, me);
weather.counts();
who(me);

try {
  const rt = await connect("/", {
    // One that was pasted cannot be renewed.
    token: me.server.dev ? me.token : me.token_text,
    store: new SessionStore(`rt:demo:${me.subject}`),
    WebSocket: line.WebSocket,
    open_timeout_s: Infinity,
    on_state: (changed) => {
      weather.changed(changed);
      if (changed.error instanceof Stopped && !me.server.dev) me.again(`The server did not take that token: ${changed.error.reason}`);
    },
  });
  new Chat(rt, ledger, (ms) => latency.add("first", ms));
  new Room(rt, me, ledger);
  new Notices(rt, me, ledger);
  new Code(me);
  if (rt.transport === "sse") weather.say("WebSockets are blocked here: it goes on with Server-Sent Events, whose frames and latency are not shown.");
} catch (error) {
  if (!(error instanceof Stopped) || me.server.dev) throw error;
}

/** The button with the user's name: to be somebody else in this tab. @param {import("../pages/sign-in.js").Me} me */
function who(me) {
  const button = the("who");
  button.textContent = me.subject;
  const field = el("input", { value: me.subject, required: true, maxLength: 100, autocomplete: "off", spellcheck: false });
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "who-title" }, "Who are you?"),
    el("p", { className: "soft" }, "This tab goes on under another name. Two tabs with two names make a conversation."),
    el("label", {}, "Name", field),
    el("button", { className: "main" }, "Go on"),
  );
  const dialog = el("dialog", { "aria-labelledby": "who-title" }, form);
  document.body.append(dialog);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close();
    if (field.value.trim() && field.value.trim() !== me.subject) me.rename(field.value.trim());
  });
  button.addEventListener("click", () => (me.server.dev ? dialog.showModal() : me.again("")));
  if (!me.server.dev) button.title = "Sign in with another token";
}

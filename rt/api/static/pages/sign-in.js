/**
 * Who uses a page. Under `rt dev` the page chooses a name and is given a token for it; elsewhere somebody pastes one.
 * A token is kept in memory, one that was pasted in the tab's sessionStorage; it is never in a URL.
 * @module
 */
import { el } from "./dom.js";

/** @typedef {{version: string, dev: boolean, pages: string[]}} Server what the server says of itself */

/** What the server answers with instead of what was asked for. */
export class Problem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.detail ?? `HTTP ${status}`);
    this.status = status;
    /** @type {string} */
    this.code = body?.code ?? "";
  }
}

const NAME = "rt:subject";
const TOKEN = "rt:token";

/** @param {string} method @param {string} path @param {any} [body] @param {Record<string, string>} [headers] */
async function http(method, path, body, headers = {}) {
  if (body !== undefined) headers = { "Content-Type": "application/json", ...headers };
  const response = await fetch(path, { method, headers, body: JSON.stringify(body), cache: "no-store" });
  const answer = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

/** What a token says its holder is called. The server alone checks it. @param {string} token */
function subject_of(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
    return String(JSON.parse(new TextDecoder().decode(bytes)).sub);
  } catch {
    return "";
  }
}

/** Somebody who has signed in: made by `signIn`. */
export class Me {
  token_text = "";
  subject = "";

  /** @param {Server} server @param {string[]} scopes */
  constructor(server, scopes) {
    this.server = server;
    this.scopes = scopes;
  }

  /** A token that is valid now, for `connect` of rt.js. */
  token = async () => {
    if (this.server.dev) {
      const { token } = await http("POST", "/dev/token", { subject: this.subject, scopes: this.scopes });
      this.token_text = token;
    }
    return this.token_text;
  };

  /**
   * A call of the HTTP API: what it answers. Throws Problem.
   * @param {string} method @param {string} path @param {any} [body] @returns {Promise<any>}
   */
  async call(method, path, body) {
    const send = () => http(method, path, body, { Authorization: `Bearer ${this.token_text}` });
    try {
      return await send();
    } catch (error) {
      if (!this.server.dev || !(error instanceof Problem) || error.code !== "token_expired") throw error;
      await this.token();
      return send();
    }
  }

  /** Under `rt dev`: goes on as somebody else, in this tab; new tabs begin with this name. @param {string} name */
  rename(name) {
    sessionStorage.setItem(NAME, name);
    localStorage.setItem(NAME, name);
    location.reload();
  }

  /** The token is not valid (any more): asks for another one. @param {string} why */
  again(why) {
    sessionStorage.removeItem(TOKEN);
    sessionStorage.setItem(`${TOKEN}:why`, why);
    location.reload();
  }
}

/** A field for a token, until there is one. @param {string} hint @returns {Promise<string>} */
function ask(hint) {
  const why = sessionStorage.getItem(`${TOKEN}:why`);
  sessionStorage.removeItem(`${TOKEN}:why`);
  const field = el("input", { type: "password", required: true, autocomplete: "off", spellcheck: false, name: "token" });
  const form = el(
    "form",
    { method: "dialog" },
    el("h2", { id: "sign-in-title" }, "Sign in"),
    el("p", { className: "soft" }, hint),
    why ? el("p", { className: "fault", role: "alert" }, why) : null,
    el("label", {}, "Token", field),
    el("button", { className: "main" }, "Go on"),
  );
  const dialog = el("dialog", { "aria-labelledby": "sign-in-title" }, form);
  // There is nothing behind it. (A browser lets Escape close it, whoever prevents that.)
  dialog.addEventListener("close", () => dialog.isConnected && dialog.showModal());
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const token = field.value.trim();
      sessionStorage.setItem(TOKEN, token);
      dialog.remove();
      resolve(token);
    });
  });
}

/**
 * Signs in, and asks for a token where that is needed. `scopes` is what the page would like to do.
 * @param {string[]} scopes
 */
export async function signIn(scopes) {
  /** @type {Server} */
  const server = await http("GET", "/pages/server.json");
  const me = new Me(server, scopes);
  let hint = `This page needs a token with the scopes ${scopes.join(", ")}. The command "rt token" prints one. It stays in this tab.`;
  if (server.dev) {
    const random = `guest-${Array.from(crypto.getRandomValues(new Uint8Array(2)), (one) => one.toString(16).padStart(2, "0")).join("")}`;
    me.subject = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME) ?? random;
    sessionStorage.setItem(NAME, me.subject);
    if (localStorage.getItem(NAME) === null) localStorage.setItem(NAME, me.subject);
    try {
      await me.token();
      return me;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // From another machine "rt dev" gives none.
      me.server = { ...server, dev: false };
      hint = `${error.message}. ${hint}`;
    }
  }
  me.token_text = sessionStorage.getItem(TOKEN) ?? (await ask(hint));
  me.subject = subject_of(me.token_text);
  return me;
}

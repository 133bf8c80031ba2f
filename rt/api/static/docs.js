// Shows /openapi.json: every call with its parameters, schemas and answers, and a form to try it. Text nodes only.
"use strict";

const $ = (id) => document.getElementById(id);
let api;

function el(tag, props = {}, ...children) {
  const one = Object.assign(document.createElement(tag), props);
  one.append(...children.filter((child) => child != null));
  return one;
}

const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema) ?? {};

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `array of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "any";
}

function limits(schema) {
  const names = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", minLength: "length ≥", maxLength: "length ≤" };
  const parts = [schema, ...(schema.anyOf ?? [])];
  const said = parts.flatMap((part) => Object.entries(names).filter(([key]) => part[key] !== undefined).map(([key, sign]) => `${sign} ${part[key]}`));
  if (schema.default != null && typeof schema.default !== "object") said.push(`default ${JSON.stringify(schema.default)}`);
  return said.join(", ");
}

function row(name, schema, needed, description, seen) {
  const inner = [schema, schema.items, ...(schema.anyOf ?? [])].find((part) => part?.$ref && !seen.includes(part.$ref));
  return el("tr", {},
    el("td", {}, name, needed ? el("span", { className: "needed", title: "required", textContent: " *" }) : null),
    el("td", { className: "type" }, typeOf(schema), el("br"), limits(schema)),
    el("td", {}, description ?? schema.description ?? "", inner && resolve(inner).properties ? fields(inner, [...seen, inner.$ref]) : null));
}

function fields(schema, seen = []) {
  const { properties = {}, required = [] } = resolve(schema);
  const rows = Object.entries(properties).map(([name, one]) => row(name, one, required.includes(name), undefined, seen));
  return el("table", {}, el("tbody", {}, ...rows));
}

function section(title, ...content) {
  return [el("h3", { textContent: title }), ...content];
}

function answers(responses) {
  return el("table", {}, el("tbody", {}, ...Object.entries(responses).map(([status, one]) => {
    const [media, { schema } = {}] = Object.entries(one.content ?? {})[0] ?? [];
    const shown = schema && media !== "application/problem+json" && resolve(schema).properties;
    return el("tr", {}, el("td", { textContent: status }), el("td", { className: "type", textContent: media ?? "" }),
      el("td", {}, one.description, shown ? fields(schema, [schema.$ref]) : null));
  })));
}

function example(schema) {
  const { properties = {}, required = [] } = resolve(schema);
  const made = { string: "", object: {}, integer: 0, number: 0, boolean: false, array: [] };
  const some = Object.entries(properties).filter(([name, one]) => required.includes(name) || one.type === "object");
  return JSON.stringify(Object.fromEntries(some.map(([name, one]) => [name, one.default ?? made[one.type] ?? null])), null, 2);
}

function attempt(method, path, operation) {
  const inputs = (operation.parameters ?? []).map((one) => [one, el("input", { spellcheck: false, required: one.required ?? false })]);
  const schema = operation.requestBody?.content["application/json"].schema;
  const body = schema && el("textarea", { spellcheck: false, value: example(schema) });
  const out = el("pre", { tabIndex: 0, ariaLive: "polite" });
  const send = el("button", { type: "submit", textContent: "Send" });
  const stop = el("button", { type: "button", textContent: "Stop", disabled: true });
  const form = el("form", {}, ...inputs.map(([one, input]) => el("label", {}, `${one.name} (${one.in})`, input)),
    body ? el("label", {}, "body (JSON)", body) : null, send, stop, out);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = inputs.filter(([, input]) => input.value !== "");
    const query = new URLSearchParams(given.filter(([one]) => one.in === "query").map(([one, input]) => [one.name, input.value]));
    const headers = Object.fromEntries(given.filter(([one]) => one.in === "header").map(([one, input]) => [one.name, input.value]));
    if ($("token").value) headers.Authorization = `Bearer ${$("token").value.trim()}`;
    if (body) headers["Content-Type"] = "application/json";
    let url = path;
    for (const [one, input] of given) if (one.in === "path") url = url.replace(`{${one.name}}`, encodeURIComponent(input.value));
    const cut = new AbortController();
    stop.onclick = () => cut.abort();
    [send.disabled, stop.disabled] = [true, false];
    if (query.size) url += `?${query}`;
    out.textContent = `${method.toUpperCase()} ${url}\n`;
    try {
      const response = await fetch(url, { method: method.toUpperCase(), headers, body: body?.value, signal: cut.signal });
      out.append(`${response.status} ${response.headers.get("content-type") ?? ""}\n\n`);
      if ((response.headers.get("content-type") ?? "").includes("json")) {
        out.append(JSON.stringify(await response.json(), null, 2));
      } else {
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part; !(part = await reader.read()).done; ) out.append(part.value);
      }
    } catch (error) {
      out.append(cut.signal.aborted ? "\n(stopped)" : `\n${error}`);
    } finally {
      [send.disabled, stop.disabled] = [false, true];
    }
  });
  return form;
}

function call(method, path, operation) {
  const parameters = (operation.parameters ?? []).map((one) => row(one.name, one.schema, one.required, `${one.in}. ${one.description ?? ""}`, []));
  const schema = operation.requestBody?.content["application/json"].schema;
  const inside = el("div");
  const one = el("details", { className: "call", id: operation.operationId },
    el("summary", {}, el("span", { className: `method ${method}`, textContent: method.toUpperCase() }), el("code", { textContent: path }),
      el("span", { textContent: operation.summary })), inside);
  // Filled when it is opened for the first time.
  one.addEventListener("toggle", () => inside.childElementCount || inside.append(
    el("p", { textContent: operation.description ?? "" }),
    ...(parameters.length ? section("Parameters", el("table", {}, el("tbody", {}, ...parameters))) : []),
    ...(schema ? section("Body", fields(schema)) : []),
    ...section("Answers", answers(operation.responses)),
    ...section("Try it", attempt(method, path, operation))));
  return one;
}

async function show() {
  api = await (await fetch("/openapi.json")).json();
  $("version").textContent = api.info.version;
  $("description").prepend(`${api.info.description} `);
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const group = operation.tags?.[0] ?? "other";
      groups.set(group, [...(groups.get(group) ?? []), call(method, path, operation)]);
    }
  }
  $("contents").replaceChildren(...[...groups.keys()].map((name) => el("a", { href: `#${name}`, textContent: name })));
  $("calls").replaceChildren(...[...groups].flatMap(([name, calls]) => [el("h2", { id: name, textContent: name }), ...calls]));
}

show().catch((error) => $("calls").replaceChildren(el("p", { role: "alert", textContent: `openapi.json could not be shown: ${error}` })));

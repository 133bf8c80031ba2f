/**
 * Makes what is not written by hand of rt/api/static: rt.min.js, which the server serves as /rt.js, and the declarations. `npm run build`;
 * with the name of a folder here they are left in it instead, beside the modules themselves.
 */
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { minify } from "terser";

const MODULES = ["rt.js", "rt-sse.js", "rt-react.js"];
const MADE = ["rt.min.js", "rt.d.ts", "rt-react.d.ts"];

// What others see of rt.js keeps its name: what is declared, the protocol's words, and what rt-sse.js and Node have.
const WORDS = `type id token session cursors batch client name resumed subject heartbeat_s max_message_bytes streams epoch seq recovered
  stream cursor event data idempotency_key job input options job_id final code message detail temporary retry_after_ms details
  positions delay_ms reason from to snapshot status text result error by discard_after request_id duplicate attempt loc msg ts
  EventSocket terminate unref`.split(/\s+/);

const here = new URL(".", import.meta.url);
const source = new URL("../../rt/api/static/", here);
const work = new URL(`${process.argv[2] ?? "build/modules"}/`, here);

// The compiler reads a module's declarations instead of it where both lie in one folder.
for (const name of MODULES) cpSync(new URL(name, source), new URL(name, work));
cpSync(new URL("tsconfig.json", here), new URL("tsconfig.json", work));
for (const name of MADE) rmSync(new URL(name, work), { force: true });
execFileSync(process.execPath, [new URL("node_modules/typescript/bin/tsc", here).pathname, "-p", work.pathname], { stdio: "inherit" });

const declared = readFileSync(new URL("rt.d.ts", work), "utf8").replace(/\/\*[^]*?\*\//g, "");
const { code } = await minify(readFileSync(new URL("rt.js", work), "utf8"), {
  module: true,
  ecma: 2022,
  compress: { passes: 3, unsafe_arrows: true },
  mangle: { properties: { reserved: [...WORDS, .../** @type {string[]} */ (declared.match(/\w+/g))] } },
});
writeFileSync(new URL("rt.min.js", work), code + "\n");
rmSync(new URL("rt-sse.d.ts", work));
if (!process.argv[2]) for (const name of MADE) cpSync(new URL(name, work), new URL(name, source));

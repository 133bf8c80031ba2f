/** Makes what users get of rt/api/static/rt.js: rt.min.js, which the server serves, and the declarations. `npm run build`. */
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { minify } from "terser";

const here = new URL(".", import.meta.url);
const source = new URL("../../rt/api/static/", here);

// What others see of it keeps its name: the declarations, the protocol, and rt-sse.js.
const PROTOCOL = `type id token session cursors batch client name resumed subject heartbeat_s max_message_bytes streams epoch seq recovered
  stream cursor event data idempotency_key job input options job_id final code message detail temporary retry_after_ms details
  positions delay_ms reason from to snapshot status text result error by discard_after request_id duplicate attempt loc msg ts
  EventSocket terminate unref`.split(/\s+/);

execFileSync("npx", ["tsc", "-p", new URL("tsconfig.json", here).pathname], { stdio: "inherit", cwd: here });
const types = new URL("build/types/", here);
const declared = readFileSync(new URL("rt.d.ts", types), "utf8").replace(/\/\*[^]*?\*\//g, "");
const reserved = [...PROTOCOL, .../** @type {string[]} */ (declared.match(/\w+/g))];

const { code } = await minify(readFileSync(new URL("rt.js", source), "utf8"), {
  module: true,
  ecma: 2022,
  compress: { passes: 3, unsafe_arrows: true },
  mangle: { properties: { reserved } },
});
const out = process.argv[2] ? new URL(process.argv[2], here) : source;
writeFileSync(new URL("rt.min.js", out), code + "\n");
for (const name of readdirSync(types)) if (name !== "rt-sse.d.ts") writeFileSync(new URL(name, out), readFileSync(new URL(name, types)));

/** Puts the package's files here while it is packed: they live where the server serves them. */
import { cpSync, readFileSync, rmSync } from "node:fs";

const here = new URL(".", import.meta.url);
const { files } = JSON.parse(readFileSync(new URL("package.json", here), "utf8"));
for (const name of files) {
  if (process.argv[2] === "--remove") rmSync(new URL(name, here));
  else cpSync(new URL(`../../rt/api/static/${name}`, here), new URL(name, here));
}

const { Redis } = require('ioredis');
const commands = new Redis(+process.env.REDIS_PORT, '127.0.0.1'), waiting = new Redis(+process.env.REDIS_PORT, '127.0.0.1');
const sleep = ms => new Promise(r => setTimeout(r, ms));
const tick = () => new Promise(setImmediate);
async function run({ session, id, n, gap }) {
  const began = performance.now();
  for (let i = 0; i < n; i++) {
    await (gap ? sleep(began + i * gap - performance.now()) : tick());
    commands.publish(session, JSON.stringify({ t: 'token', job: id, i, d: 'word-' + i, ...(gap ? { ts: performance.timeOrigin + performance.now() } : {}) }));
  }
}
waiting.on('ready', () => console.log('ready'));
(async () => { for (;;) run(JSON.parse((await waiting.brpop('jobs', 0))[1])); })();

// BullMQ's client, as bench/marks.py drives the others: samples N | fill N | hold N
const { Queue } = require('bullmq');
const queue = new Queue('jobs', { connection: { host: '127.0.0.1', port: +process.env.REDIS_PORT } });
const shift = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6)) - process.hrtime.bigint();
const now = () => process.hrtime.bigint() + shift;
(async () => {
  const [what, count] = process.argv.slice(2);
  if (what === 'samples') {
    for (let k = -5; k < +count; k++) {
      const began = now();
      await queue.add('noop', { id: 's' + k });
      console.log('s' + k, String(began));
      await new Promise(r => setTimeout(r, 50 + Math.random() * 100));
    }
  } else {
    const name = what === 'fill' ? 'noop' : 'hold';
    for (let k = 0; k < +count; k += 20) {
      await Promise.all(Array.from({ length: Math.min(20, +count - k) }, (_, i) => queue.add(name, { id: what[0] + (k + i) })));
    }
  }
  await queue.close();
  process.exit(0);
})();

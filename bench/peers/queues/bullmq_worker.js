const fs = require('fs');
const { Worker } = require('bullmq');
const file = fs.openSync(process.env.BENCH_MARKS, 'a');
const shift = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6)) - process.hrtime.bigint();
const worker = new Worker('jobs', async job => {
  fs.writeSync(file, `${job.data.id} ${process.hrtime.bigint() + shift}\n`);
  if (job.name === 'hold') await new Promise(r => setTimeout(r, 600000));
}, { connection: { host: '127.0.0.1', port: +process.env.REDIS_PORT }, ...(process.env.MAX_JOBS ? { concurrency: +process.env.MAX_JOBS } : {}) });
worker.waitUntilReady().then(() => console.log('ready'));

// BullMQ's worker. It emits by an XADD in the adapter's own format: no faster way to reach the adapter's clients is known.
const { Worker } = require('bullmq');
const { Redis } = require('ioredis');
const connection = { host: '127.0.0.1', port: +process.env.REDIS_PORT };
const redis = new Redis(connection);
const emit = (room, event, data) => redis.xadd('socket.io', 'MAXLEN', '~', 10000, '*', 'uid', 'emitter', 'nsp', '/', 'type', '3',
  'data', JSON.stringify({ opts: { rooms: [room], except: [], flags: {} }, packet: { type: 2, data: [event, data], nsp: '/' } }));
const sleep = ms => new Promise(r => setTimeout(r, ms));
const tick = () => new Promise(setImmediate);
const worker = new Worker('jobs', async job => {
  const { room, id, n, gap } = job.data;
  const began = performance.now();
  for (let i = 0; i < n; i++) {
    await (gap ? sleep(began + i * gap - performance.now()) : tick());
    emit(room, 'token', { job: id, i, d: 'word-' + i, ...(gap ? { ts: performance.timeOrigin + performance.now() } : {}) });
  }
}, { connection, concurrency: +process.env.MAX_JOBS });
worker.waitUntilReady().then(() => console.log('ready'));

// Publishes numbered events to rooms whose clients are away, in the adapter's own format. On stdin: {"rooms": [..], "n": count}
const { Redis } = require('ioredis');
const redis = new Redis(+process.env.REDIS_PORT, '127.0.0.1');
(async () => {
  const { rooms, n } = JSON.parse(require('fs').readFileSync(0));
  for (let i = 0; i < n; i++) {
    for (const room of rooms) {
      redis.xadd('socket.io', 'MAXLEN', '~', 10000, '*', 'uid', 'emitter', 'nsp', '/', 'type', '3',
        'data', JSON.stringify({ opts: { rooms: [room], except: [], flags: {} }, packet: { type: 2, data: ['token', { job: 'gap', i, d: 'word-' + i }], nsp: '/' } }));
    }
    await redis.ping();
  }
  process.exit(0);
})();

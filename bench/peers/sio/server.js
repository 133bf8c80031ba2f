// Socket.IO 4 with the Redis Streams adapter and connection state recovery; jobs through BullMQ.
// SIO_ADAPTER=memory: the in-memory adapter, whose events are made in this process (no worker could reach it).
const http = require('http');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/redis-streams-adapter');
const { Redis } = require('ioredis');
const { Queue } = require('bullmq');
const memory = process.env.SIO_ADAPTER === 'memory';
const connection = { host: '127.0.0.1', port: +process.env.REDIS_PORT };
const server = http.createServer((request, answer) => { // POST /gap {rooms, n}
  let body = '';
  request.on('data', d => { body += d; });
  request.on('end', () => {
    const { rooms, n } = JSON.parse(body);
    for (let i = 0; i < n; i++) for (const room of rooms) io.to(room).emit('token', { job: 'gap', i, d: 'word-' + i });
    answer.end('ok');
  });
});
const io = new Server(server, {
  connectionStateRecovery: { maxDisconnectionDuration: 120000, skipMiddlewares: true },
  ...(memory ? {} : { adapter: createAdapter(new Redis(connection)) }),
});
const queue = new Queue('jobs', { connection, defaultJobOptions: { removeOnComplete: true } });
io.on('connection', s => {
  s.join('room');
  s.on('job', m => {
    if (memory) for (let i = 0; i < m.n; i++) io.to(s.id).emit('token', { job: m.id, i, d: 'word-' + i });
    else queue.add('stream', { room: s.id, id: m.id, n: m.n, gap: m.gap });
  });
  s.on('fan', m => io.to('room').emit('token', { job: m.id, i: 0, d: 'fan' }));
});
server.listen({ port: +process.env.WEB_PORT, host: '127.0.0.1', backlog: 4096 }, () => console.log('ready'));

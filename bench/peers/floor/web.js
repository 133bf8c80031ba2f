// The floor in Node: `ws`, a Redis list for jobs, one pub/sub channel per session. No acknowledgement, no storage, no retry.
const { WebSocketServer } = require('ws');
const { Redis } = require('ioredis');
const commands = new Redis(+process.env.REDIS_PORT, '127.0.0.1'), subscriber = new Redis(+process.env.REDIS_PORT, '127.0.0.1');
const clients = new Map();
subscriber.on('message', (channel, text) => clients.get(channel)?.send(text));
const server = new WebSocketServer({ port: +process.env.WEB_PORT, host: '127.0.0.1', perMessageDeflate: false, backlog: 4096 }, () => console.log('ready'));
server.on('connection', (ws, request) => {
  const session = new URL(request.url, 'http://x').searchParams.get('session');
  clients.set(session, ws);
  ws.on('close', () => { clients.delete(session); subscriber.unsubscribe(session); });
  const subscribed = subscriber.subscribe(session);
  ws.on('message', async d => {
    const m = JSON.parse(d);
    await subscribed;
    if (m.t === 'job') commands.lpush('jobs', JSON.stringify({ session, id: m.id, n: m.n, gap: m.gap }));
    else { const event = JSON.stringify({ t: 'token', job: m.id, i: 0, d: 'fan' }); for (const one of clients.values()) one.send(event); }
  });
});

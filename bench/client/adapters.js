// One small adapter per wire. Each says how to connect, submit a job, recognise an event, resume:
//   path(c)              the URL's path
//   opened(c)            the socket is open; plain wires are ready now: c.ready()
//   frame(c, data)       a frame came (Buffer): c.token(job, i, ts) per event, c.echo() for an echo, c.faults where it sees one
//   job(c, id, n, gap)   ask for a job that streams n events, gap ms apart (none: as fast as it can)
//   publish(c, id)       ask for one event to the room that all members are in
//   post(id)             {path, headers, body} of an HTTP request that enqueues one job
'use strict';
const { words } = require('./journal.js');
const J = JSON.stringify;

const plain = {
  path: c => `/ws?session=${c.session}`,
  opened: c => c.ready(),
  frame(c, d) { const m = JSON.parse(d); c.token(m.job, m.i, m.ts); },
  job: (c, id, n, gap) => c.send(J({ t: 'job', id, n, gap })),
  publish: (c, id) => c.send(J({ t: 'fan', id })),
  post: id => ({ path: '/jobs', headers: {}, body: J({ job: 'noop', input: { id } }) }),
};

const echo = { path: () => '/ws', opened: c => c.ready(), frame: c => c.echo() };

// Socket.IO 4: Engine.IO's packet type, Socket.IO's packet type, JSON. Recovery: pid and offset.
const sio = {
  path: () => '/socket.io/?EIO=4&transport=websocket',
  opened() {},
  frame(c, d) {
    if (d[0] === 0x34) { // "4", a message
      if (d[1] === 0x32) { // "42", an event
        const m = JSON.parse(d.toString('utf8', 2));
        if (m.length > 2 && typeof m[m.length - 1] === 'string') c.last = m[m.length - 1];
        c.token(m[1].job, m[1].i, m[1].ts);
      } else if (d[1] === 0x30) { // "40", connected
        const m = JSON.parse(d.toString('utf8', 2));
        c.recovered = c.pid !== undefined && m.pid === c.pid;
        c.pid = m.pid;
        c.room = m.sid;
        c.ready();
      }
    } else if (d[0] === 0x30) c.send('40' + (c.pid && c.last ? J({ pid: c.pid, offset: c.last }) : ''));
    else if (d[0] === 0x32) c.send('3'); // ping, pong
  },
  job: (c, id, n, gap) => c.send('42' + J(['job', { id, n, gap }])),
  publish: (c, id) => c.send('42' + J(['fan', { id }])),
};

// rt.v1, as docs/protocol.md has it. The seqs of each stream are checked as well: a hole is a loss, whatever the job says.
const rt = {
  path: () => '/v1/ws',
  opened(c) {
    c.at ||= {}; // stream -> last seq
    c.epochs ||= {};
    c.jobs ||= {}; // stream -> the id of the command that submitted it
    c.early = {}; // stream -> deltas that came before its name
    c.moved = new Set(); // streams to acknowledge
    c.tails ||= new Map();
    const cursors = Object.fromEntries(Object.entries(c.at).filter(([s]) => c.epochs[s]).map(([s, seq]) => [s, `${c.epochs[s]}:${seq}`]));
    c.send(J({ type: 'connect', token: process.env.BENCH_TOKEN, batch: true, ...(c.room && { session: c.room, cursors }) }));
    clearInterval(c.acks);
    c.acks = setInterval(() => rtAck(c), 1000).unref();
  },
  frame(c, d) {
    const m = JSON.parse(d);
    if (Array.isArray(m)) for (const e of m) rtFrame(c, e);
    else rtFrame(c, m);
  },
  job: (c, id, n, gap) => c.send(J({ type: 'job.submit', id, job: 'words', input: { n, ...(gap && { gap_ms: gap }) } })),
  publish: (c, id) => c.send(J({ type: 'publish', id, stream: 'room:bench', data: { i: 0 } })),
  post: id => ({ path: '/v1/jobs', headers: { Authorization: `Bearer ${process.env.BENCH_TOKEN}` }, body: J({ job: 'noop', input: { id } }) }),
};
// The same with events that stay apart: data instead of text, which the worker may not join.
const rtData = { ...rt, job: (c, id, n, gap) => c.send(J({ type: 'job.submit', id, job: 'items', input: { n, ...(gap && { gap_ms: gap }) } })) };

function rtFrame(c, e) {
  if (e.seq !== undefined && e.type !== 'subscribed') rtEvent(c, e);
  else if (e.type === 'reply') { if (e.data.job_id) rtName(c, e.data.stream, e.id); }
  else if (e.type === 'connected') {
    c.recovered = e.resumed;
    c.room = e.session;
    for (const [s, { epoch, seq }] of Object.entries(e.streams)) {
      c.epochs[s] = epoch;
      c.at[s] ??= seq;
    }
    if (c.joins) c.send(J({ type: 'subscribe', id: 'join', stream: 'room:bench' }));
    else c.ready();
  } else if (e.type === 'subscribed') {
    c.epochs[e.stream] = e.epoch;
    if (e.id) c.at[e.stream] = e.seq; // asked for from now on
    if (e.id === 'join') c.ready();
    else if (e.id) c.subscribed();
  } else if (e.type === 'gap') c.faults.lost += e.to ? e.to - e.from + 1 : 1;
  else if (e.type === 'ping') c.send('{"type":"pong"}');
  else if (e.type === 'error') { console.error('error frame: ' + J(e)); c.faults.lost++; }
}
function rtEvent(c, e) {
  const at = c.at[e.stream] || 0;
  if (e.seq <= at) c.faults.repeated++;
  if (e.seq > at + 1) c.faults.lost += e.seq - at - 1;
  c.at[e.stream] = Math.max(at, e.seq);
  c.moved.add(e.stream);
  if (e.type === 'job.delta') {
    if (c.jobs[e.stream] !== undefined) rtTokens(c, e);
    else (c.early[e.stream] ||= []).push(e);
  } else if (e.type === 'message') c.token(e.stream === 'room:bench' ? 'room' : 'gap', e.data.data.i);
  else if (e.type === 'job.created' && e.data.request_id) rtName(c, `job:${e.data.job_id}`, e.data.request_id);
  else if (e.type === 'job.failed') { console.error('a job failed: ' + J(e.data)); c.faults.lost++; }
}
function rtName(c, stream, id) {
  if (c.jobs[stream] !== undefined) return;
  c.jobs[stream] = id;
  for (const e of c.early[stream] || []) rtTokens(c, e);
  delete c.early[stream];
}
function rtTokens(c, e) {
  if (e.data.text === undefined) c.token(c.jobs[e.stream], e.data.data.i, e.data.data.ts);
  else { // a long text is cut anywhere: what follows the last space waits for the next delta
    const text = (c.tails.get(e.stream) || '') + e.data.text, cut = text.lastIndexOf(' ') + 1;
    words(text.slice(0, cut), (i, ts) => c.token(c.jobs[e.stream], i, ts));
    if (cut < text.length) c.tails.set(e.stream, text.slice(cut));
    else c.tails.delete(e.stream);
  }
}
function rtAck(c) {
  if (!c.moved.size || c.ws.readyState !== 1) return;
  c.send(J({ type: 'ack', cursors: Object.fromEntries([...c.moved].map(s => [s, c.at[s]])) }));
  c.moved.clear();
}

module.exports = { plain, echo, sio, rt, 'rt-data': rtData };

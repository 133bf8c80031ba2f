// The one load client, for every system.  node load.js MODE ADAPTER key=value …
// On stdout: "start" and "stop" around what is measured, "ask TEXT" until the harness writes a line, "result JSON" at the end.
'use strict';
const http = require('http');
const readline = require('readline');
const WebSocket = require('ws');
const adapters = require('./adapters.js');
const { Journal, Faults } = require('./journal.js');

const [mode, adapterName, ...pairs] = process.argv.slice(2);
const options = Object.fromEntries(pairs.map(s => s.split('=')));
const num = (key, otherwise) => (options[key] === undefined ? otherwise : Number(options[key]));
const ad = adapters[adapterName];
const port = num('port');
const faults = new Faults();
const now = () => performance.now();
const sleep = ms => new Promise(r => setTimeout(r, ms));
const say = text => process.stdout.write(text + '\n');
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async text => { say('ask ' + text); await lines.next(); };
const JOB_MS = 15000; // a job that has not ended by then has lost its events

function end(result) {
  const text = JSON.stringify({ ...result, lost: faults.lost, repeated: faults.repeated, disordered: faults.disordered });
  process.stdout.write(`result ${text}\n`, () => process.exit(0)); // not before all of it has left
}

class Conn {
  constructor(k) { this.session = 's' + k; this.faults = faults; this.idle(); this.echo = () => {}; }
  // Nothing is due: whatever comes now came twice.
  idle() { this.token = () => { faults.repeated++; }; }
  open() {
    return new Promise((resolve, reject) => {
      this.ready = () => resolve(this);
      const ws = this.ws = new WebSocket(`ws://127.0.0.1:${port}${ad.path(this)}`, { perMessageDeflate: false, skipUTF8Validation: true });
      ws.on('open', () => { ws._socket.setNoDelay(true); ad.opened(this); });
      ws.on('message', d => ad.frame(this, d));
      ws.on('error', reject);
    });
  }
  send(text) { this.ws.send(text); }
  // One job; resolves at its last event. `onToken(i, ts, first)` sees each.
  run(id, n, gap, onToken = () => {}) {
    return new Promise(resolve => {
      const journal = new Journal(n), began = now();
      let first;
      const finish = () => { clearTimeout(timer); faults.add(journal); this.idle(); resolve({ first, last: now() - began }); };
      const timer = setTimeout(finish, JOB_MS + n * (gap || 0));
      this.token = (job, i, ts) => {
        if (job !== id) { faults.repeated++; return; }
        if (first === undefined) first = now() - began;
        if (journal.take(i)) onToken(i, ts);
        if (journal.done) finish();
      };
      ad.job(this, id, n, gap);
    });
  }
}

async function openAll(n, atOnce = 100, joins = false) {
  const conns = Array.from({ length: n }, (_, k) => Object.assign(new Conn(k), { joins }));
  for (let i = 0; i < n; i += atOnce) await Promise.all(conns.slice(i, i + atOnce).map(c => c.open()));
  return conns;
}

// Every client is given `n` events before anything is measured.
async function history(conns, n) {
  let left = conns.length * n, resolve;
  const all = new Promise(r => { resolve = r; });
  for (const c of conns) c.token = () => { if (!--left) resolve(); };
  await ask(JSON.stringify({ rooms: conns.map(c => c.room), n }));
  await all;
  conns.forEach(c => c.idle());
}

const modes = {
  // One job at a time on one connection, 50 to 150 ms apart; `idle` other clients are just connected.
  async tokens() {
    const [c] = await openAll(1 + num('idle', 0)), first_ms = [], last_ms = [], warm = 5;
    for (let k = 0; k < warm + num('samples', 40); k++) {
      const { first, last } = await c.run(`j${k}`, num('events', 100));
      if (k >= warm && first !== undefined) { first_ms.push(first); last_ms.push(last); }
      await sleep(50 + Math.random() * 100);
    }
    end({ first_ms, last_ms });
  },

  // Every client keeps one job in flight. With gap=MS the worker paces and stamps its events, and their age is sampled.
  async load() {
    const clients = num('clients', 50), conns = (await openAll(clients + num('idle', 0))).slice(0, clients), n = num('events', 100), gap = num('gap', 0), age_ms = [], first_ms = [];
    let events = 0, stop = false;
    const onToken = (i, ts) => {
      events++;
      if (ts && i % 10 === 5) age_ms.push(performance.timeOrigin + now() - ts);
    };
    const running = conns.map(async (c, k) => {
      await sleep(k / conns.length * num('ramp', 0));
      for (let j = 0; !stop; j++) first_ms.push((await c.run(`${c.session}-${j}`, n, gap, onToken)).first);
    });
    await sleep(num('warm', 1500));
    age_ms.length = first_ms.length = 0;
    say('start');
    const events0 = events, began = now(), cpu0 = process.cpuUsage();
    await sleep(num('ms', 4000));
    const s = (now() - began) / 1000, cpu = process.cpuUsage(cpu0), measured = events - events0;
    const result = { events: measured, s, first_ms: first_ms.slice(), age_ms: age_ms.slice(), client_busy: (cpu.user + cpu.system) / 1e6 / s };
    say('stop');
    stop = true;
    await Promise.all(running); // what was asked for is still counted, to its last event
    end(result);
  },

  // n connections that have said one thing and heard one, held until the harness has looked.
  async idle() {
    const conns = await openAll(num('clients', 5000), 50);
    if (adapterName === 'echo') for (const c of conns) await new Promise(r => { c.echo = r; c.send('x'.repeat(200)); });
    await ask('open');
    end({});
  },

  // As `idle`, each connection following `streams` rooms of its own (rt alone).
  async follow() {
    const conns = await openAll(num('clients', 100)), n = num('streams', 0);
    for (const c of conns) {
      let left = n;
      const all = new Promise(r => { c.subscribed = () => { if (!--left) r(); }; });
      for (let k = 0; k < n; k++) c.send(JSON.stringify({ type: 'subscribe', id: `f${k}`, stream: `room:${c.session}-${k}` }));
      if (n) await all;
    }
    await ask('open');
    end({});
  },

  // `clients` sessions are made, one connection each, and left (rt alone).
  async visit() {
    for (let left = num('clients', 1000); left > 0; left -= 100) {
      const conns = await openAll(Math.min(100, left), 100);
      await Promise.all(conns.map(c => new Promise(r => { c.ws.on('close', r); c.ws.close(1000); })));
    }
    end({});
  },

  // All are cut off; the harness has events published to each meanwhile; all come back at once.
  async resume() {
    const n = num('clients', 500), per = num('events', 100), conns = await openAll(n);
    for (const c of conns) await c.run(`first-${c.session}`, 2); // gives everybody a position
    if (num('history', 0)) await history(conns, num('history', 0));
    await sleep(1500); // a second for acknowledgements
    const journals = conns.map(() => new Journal(per));
    let left = n * per, lastAt = 0;
    conns.forEach((c, k) => { c.token = (job, i) => { if (job === 'gap' && journals[k].take(i)) { left--; lastAt = now(); } }; });
    if (options.cut !== 'server') conns.forEach(c => c.ws.terminate());
    await sleep(500);
    await ask(JSON.stringify({ rooms: conns.map(c => c.room || c.session), n: per }));
    const began = now(), limit = began + num('limit_ms', 20000);
    let refused = 0;
    await Promise.all(conns.map(c => c.open().catch(() => { refused++; })));
    const open_ms = now() - began;
    for (let quiet = 0, before = left; left && now() < limit && quiet < 60; before = left) { await sleep(50); quiet = left === before ? quiet + 1 : 0; }
    await sleep(300); // for what comes twice
    journals.forEach(j => faults.add(j));
    end({ open_ms, all_ms: lastAt ? lastAt - began : null, refused, recovered: conns.filter(c => c.recovered).length });
  },

  // One publish; until the last member has it.
  async room() {
    const n = num('clients', 5000), conns = await openAll(n, 100, true), all_ms = [], warm = 2;
    await sleep(1000);
    for (let k = 0; k < warm + num('samples', 6); k++) {
      let left = n, resolve;
      const all = new Promise(r => { resolve = r; });
      for (const c of conns) { let had = false; c.token = () => { if (had) faults.repeated++; else { had = true; if (!--left) resolve(true); } }; }
      const began = now();
      ad.publish(conns[0], `p${k}`);
      if (await Promise.race([all, sleep(15000)]) && k >= warm) all_ms.push(now() - began);
      faults.lost += left;
      await sleep(200);
    }
    end({ all_ms });
  },

  // POSTs on connections that stay open, one in flight on each.
  async post() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: num('clients', 32) }), took_ms = [], ids = new Set();
    let stop = false, accepted = 0, measuring = false, measured = 0;
    const post = id => new Promise((resolve, reject) => {
      const { path, headers, body } = ad.post(id), began = now();
      const request = http.request({ host: '127.0.0.1', port, path, method: 'POST', agent, headers: { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...headers } }, answer => {
        let text = '';
        answer.on('data', d => { text += d; });
        answer.on('end', () => {
          const id = answer.statusCode < 300 ? JSON.parse(text).job_id : undefined;
          if (id === undefined) { faults.lost++; console.error(`status ${answer.statusCode}: ${text.slice(0, 200)}`); }
          else if (ids.has(id)) faults.repeated++;
          else { ids.add(id); accepted++; if (measuring) { measured++; took_ms.push(now() - began); } }
          resolve();
        });
      });
      request.on('error', reject);
      request.end(body);
    });
    const callers = Array.from({ length: num('clients', 32) }, async (_, k) => { for (let j = 0; !stop; j++) await post(`${k}-${j}`); });
    await sleep(num('warm', 1000));
    measuring = true;
    say('start');
    const began = now(), cpu0 = process.cpuUsage();
    await sleep(num('ms', 3000));
    measuring = false;
    const s = (now() - began) / 1000, cpu = process.cpuUsage(cpu0);
    say('stop');
    stop = true;
    await Promise.all(callers);
    end({ requests: measured, accepted, s, took_ms, client_busy: (cpu.user + cpu.system) / 1e6 / s });
  },
};

modes[mode]().catch(error => { console.error(error); process.exit(2); });

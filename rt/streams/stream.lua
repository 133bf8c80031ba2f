-- Library of every script that writes to a stream. A stream is two keys of one slot: `log` (a Redis stream, ids
-- "<seq>-0") and `meta` (a hash: epoch, seq, first, inc, past, renewed; a job's also holds its status and fence).
--
-- Each redis.call costs more than what it does to a small hash: the meta is read once and written once for each append.

-- Redis's own time, which stands still while a script runs.
local clock
local function now_ms()
  if not clock then
    local t = redis.call('TIME')
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end

-- A stream as its meta has it, and the values of `more` fields of the meta.
local function stream_look(log, meta, ...)
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'inc', 'renewed', ...)
  return { log = log, meta = meta, epoch = m[1], seq = tonumber(m[2]), inc = m[3], renewed = m[4] }, unpack(m, 5, 4 + select('#', ...))
end

-- Begins a stream where it does not exist, and returns it. `word` names a new epoch.
-- A stream that was last written under another incarnation of Redis may have lost its newest events, seq and all:
-- it goes on under a new epoch, and `past` keeps what the last eight were and how far each reached. So it does when it
-- was written while nobody knew the incarnation (a FLUSHALL takes that note as well): there may have been another since.
local incarnation
local function stream_begin(stream, word)
  incarnation = incarnation or redis.call('GET', 'rt:incarnation') or ''
  if not stream.epoch then
    redis.call('DEL', stream.log, (string.gsub(stream.log, ':log$', ':text')))
    stream.epoch, stream.seq = word, 0
    redis.call('HSET', stream.meta, 'epoch', word, 'seq', 0, 'first', 1, 'inc', incarnation)
  elseif stream.inc ~= incarnation and incarnation ~= '' then
    local kept = { stream.epoch .. ':' .. stream.seq }
    for one in string.gmatch(redis.call('HGET', stream.meta, 'past') or '', '%S+') do
      if #kept < 8 then kept[#kept + 1] = one end
    end
    stream.epoch = word
    redis.call('HSET', stream.meta, 'epoch', word, 'inc', incarnation, 'past', table.concat(kept, ' '))
  end
  return stream
end

local function stream_open(log, meta, word)
  return stream_begin((stream_look(log, meta)), word)
end

-- EXPIRE that only grows. GT alone never sets the first one (no expiry counts as infinite), so NX stands in.
local function expire(key, seconds)
  if redis.call('EXPIRE', key, seconds, 'GT') == 0 then redis.call('EXPIRE', key, seconds, 'NX') end
end

-- What a job has said so far goes on in `<stream>:text` when its deltas are trimmed from the log: a reader that comes
-- later gets it with its gap. `text_seq` in the meta is the last event that it covers; -1 once it can be told no more:
-- deltas that are no text, a part that was discarded from within, more than 128 KiB, an event that vanished untrimmed.
local function text_fold(log, meta, entries, keep)
  local text = string.gsub(log, ':log$', ':text')
  local m = redis.call('HMGET', meta, 'text_seq', 'text_last')
  local covered, last = tonumber(m[1] or 0), tonumber(m[2] or 0)
  if covered < 0 then return end
  for _, entry in ipairs(entries) do
    local seq = tonumber((string.gsub(entry[1], '%-0$', '')))
    local body = entry[2][2]
    local kind = string.match(body, '^{"seq":%d+,"type":"([^"]+)"')
    local whole = seq == covered + 1
    if whole and kind == 'job.delta' then
      local said = cjson.decode(body).data.text
      whole = said and redis.call('APPEND', text, said) <= 131072
      last = seq
    elseif whole and kind == 'job.restarted' then
      local kept = cjson.decode(body).data.discard_after
      if kept == 0 then redis.call('DEL', text) end
      whole = kept == 0 or kept >= last
    end
    if not whole then
      redis.call('DEL', text)
      redis.call('HSET', meta, 'text_seq', -1)
      return
    end
    covered = seq
  end
  redis.call('HSET', meta, 'text_seq', covered, 'text_last', last)
  expire(text, keep[2])
end

-- Appends events (JSON without seq) and announces them once; `more` fields and values are written to the meta with it.
-- Returns first and last seq. `keep` = { length, log_ttl_s, meta_ttl_s }; what is kept is kept a tenth of log_ttl_s longer,
-- a minute at most, so that only one append in that time has to set the expiries.
local function stream_add(stream, events, keep, ...)
  local log, meta, seq = stream.log, stream.meta, stream.seq
  local first, top, bodies, bytes = seq + 1, '', {}, 0
  local is_job = string.find(log, '{job:', 1, true)
  local slack_s = math.min(60, math.floor(keep[2] / 10))
  local renew = not stream.renewed or math.abs(now_ms() - stream.renewed) >= slack_s * 1000
  -- Redis's own time, by which streams are trimmed: an event's `ts` is of its writer's clock. A job's stream ends by itself.
  local entry = is_job and { '', 'e', '' } or { '', 'e', '', 't', string.format('%.0f', now_ms()) }
  for i, event in ipairs(events) do
    seq = seq + 1
    top = tostring(seq)  -- once: it costs as much as a field of the meta
    local body = '{"seq":' .. top .. ',' .. string.sub(event, 2)
    entry[1], entry[3] = top .. '-0', body
    -- A log that vanished is a new key, without an expiry.
    local added = not renew and redis.call('XADD', log, 'NOMKSTREAM', unpack(entry))
    if not added then
      redis.call('XADD', log, unpack(entry))
      renew = true
    end
    bodies[i] = body
    bytes = bytes + #body
  end
  stream.seq = seq
  if renew then
    redis.call('HSET', meta, 'seq', top, 'renewed', string.format('%.0f', now_ms()), ...)
    expire(log, keep[2] + slack_s)
    expire(meta, keep[3] + slack_s)
  else
    redis.call('HSET', meta, 'seq', top, ...)
  end
  -- Never more than were ever added.
  local over = seq > tonumber(keep[1]) and redis.call('XLEN', log) - keep[1] or 0
  if over > 0 and not is_job then
    redis.call('XTRIM', log, 'MAXLEN', '~', keep[1])
    local head = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
    if head[1] then redis.call('HSET', meta, 'first', (string.gsub(head[1][1], '%-0$', ''))) end
  elseif over >= 100 then
    local old = redis.call('XRANGE', log, '-', '+', 'COUNT', math.min(over, 1000) + 1)
    local head = table.remove(old)
    text_fold(log, meta, old, keep)
    redis.call('XTRIM', log, 'MINID', head[1])
    redis.call('HSET', meta, 'first', (string.gsub(head[1], '%-0$', '')))
  end
  -- The announcement carries the bytes along up to 32 KiB; beyond, readers fetch them from the log.
  local head = stream.epoch .. ' ' .. (first == seq and top or first) .. ' ' .. top
  if bytes <= 32768 then head = head .. '\n' .. table.concat(bodies, '\n') end
  redis.call('PUBLISH', string.sub(log, 1, -4) .. 'live', head)
  return first, seq
end

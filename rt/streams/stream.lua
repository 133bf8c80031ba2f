-- Library of every script that writes to a stream. A stream is two keys of one slot: `log` (a Redis stream, ids
-- "<seq>-0") and `meta` (a hash: epoch, seq, first, inc, past; a job's also holds its status and fence).

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The stream's epoch and top, beginning it where it does not exist. `word` names a new epoch.
-- A stream that was last written under another incarnation of Redis may have lost its newest events, seq and all:
-- it goes on under a new epoch, and `past` keeps what the last eight were and how far each reached. So it does when it
-- was written while nobody knew the incarnation (a FLUSHALL takes that note as well): there may have been another since.
local function stream_open(log, meta, word)
  local inc = redis.call('GET', 'rt:incarnation') or ''
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'inc', 'past')
  if not m[1] then
    redis.call('DEL', log, (string.gsub(log, ':log$', ':text')))
    redis.call('HSET', meta, 'epoch', word, 'seq', 0, 'first', 1, 'inc', inc)
    return word, 0
  end
  if m[3] ~= inc and inc ~= '' then
    local kept = { m[1] .. ':' .. m[2] }
    for one in string.gmatch(m[4] or '', '%S+') do
      if #kept < 8 then kept[#kept + 1] = one end
    end
    redis.call('HSET', meta, 'epoch', word, 'inc', inc, 'past', table.concat(kept, ' '))
    return word, tonumber(m[2])
  end
  return m[1], tonumber(m[2])
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

-- Appends events (JSON without seq) and announces them once. Returns first and last seq.
-- `keep` = { length, log_ttl_s, meta_ttl_s }.
local function stream_add(log, meta, epoch, seq, events, keep)
  local first, bodies, bytes = seq + 1, {}, 0
  -- Redis's own time, by which streams are trimmed: an event's `ts` is of its writer's clock. A job's stream ends by itself.
  local entry = string.find(log, '{job:', 1, true) and { 'e', '' } or { 'e', '', 't', string.format('%.0f', now_ms()) }
  for i, event in ipairs(events) do
    seq = seq + 1
    local body = '{"seq":' .. seq .. ',' .. string.sub(event, 2)
    entry[2] = body
    redis.call('XADD', log, seq .. '-0', unpack(entry))
    bodies[i] = body
    bytes = bytes + #body
  end
  redis.call('HSET', meta, 'seq', seq)
  local over = redis.call('XLEN', log) - tonumber(keep[1])
  if over > 0 and not string.find(log, '{job:', 1, true) then
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
  expire(log, keep[2])
  expire(meta, keep[3])
  -- The announcement carries the bytes along up to 32 KiB; beyond, readers fetch them from the log.
  local head = epoch .. ' ' .. first .. ' ' .. seq
  if bytes <= 32768 then head = head .. '\n' .. table.concat(bodies, '\n') end
  redis.call('PUBLISH', string.gsub(log, ':log$', ':live'), head)
  return first, seq
end

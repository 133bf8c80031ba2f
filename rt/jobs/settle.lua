-- Ends runs: of each its last events, the job's status and everything of the queue's, at one instant.
-- KEYS: queue, then log and meta of each. ARGV: word, length, log_ttl_s, meta_ttl_s, ttl_ms of arq's results, the bounds of letters (3);
-- then for each: id, tenant, fence, kind, delay_ms, result (JSON), error (JSON), usage (JSON), arq's result, the error in short (JSON),
-- number of the last batch that was answered, number of events, the events.
-- kind: completed, failed, cancelled, retrying, handed_back.
-- Returns for each 'ok', 'fenced', 'cancelled <by>' (then it must be settled as cancelled) or 'behind' (handed back).
local queue, word, keep, out = KEYS[1], ARGV[1], { ARGV[2], ARGV[3], ARGV[4] }, {}
local now = now_ms()
local at_ms = string.format('%.0f', now)
local over, rings = {}, false

-- `at`: where the run's own arguments begin.
local function settle(log, meta, at)
  local id, tenant, kind, count = ARGV[at], ARGV[at + 1], ARGV[at + 3], tonumber(ARGV[at + 11])
  local stream, fence, cancel, settled, score, batch = stream_look(log, meta, 'fence', 'cancel', 'settled', 'score', 'batch')
  if fence ~= ARGV[at + 2] then
    -- The answer to this very call may have been lost on its way.
    return settled == ARGV[at + 2] .. ' ' .. kind and 'ok' or 'fenced'
  end
  if cancel and kind ~= 'cancelled' then return 'cancelled ' .. cancel end
  -- Redis was set back and has lost some of the output (see append.lua): nothing of this attempt may follow on that hole.
  local behind = tonumber(batch or 0) < tonumber(ARGV[at + 10])
  if behind and kind ~= 'cancelled' and kind ~= 'handed_back' then return 'behind' end
  local fields = { 'settled', fence .. ' ' .. kind }
  local function put(field, value)
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  if ended[kind] then
    put('status', kind)
    put('finished', at_ms)
    if ARGV[at + 5] ~= '' then put('result', ARGV[at + 5]) end
    if ARGV[at + 6] ~= '' then put('error', ARGV[at + 6]) end
    if ARGV[at + 7] ~= '' then put('usage', ARGV[at + 7]) end
  elseif kind == 'retrying' then
    put('status', 'retrying')
    put('restart', 'error')
    put('error', ARGV[at + 6])
  else
    -- A deploy took the run away, or Redis lost some of it: back to its place at the head of the queue, and not counted.
    put('status', 'queued')
    put('restart', behind and 'lease_lost' or 'deploy')
    redis.call('HINCRBY', meta, 'tries', -1)
  end
  stream_begin(stream, word)
  if count > 0 and not (behind and kind == 'handed_back') then
    stream_add(stream, { unpack(ARGV, at + 12, at + 11 + count) }, keep, unpack(fields))
  else
    redis.call('HSET', meta, unpack(fields))
  end
  redis.call('HDEL', meta, 'fence')
  if ended[kind] then
    if kind == 'failed' then
      letter_keep(tenant, id, redis.call('GET', 'arq:job:' .. id), ARGV[at + 9], now, { ARGV[6], ARGV[7], ARGV[8] })
    end
    job_result(id, ARGV[at + 8], ARGV[5])
    over[#over + 1] = { id, tenant }
    return 'ok'
  end
  redis.call('DEL', 'arq:in-progress:' .. id)
  redis.call('ZREM', 'rt:leases:' .. queue, id)
  if kind == 'retrying' then
    job_note_error(meta, ARGV[at + 9], now)
    redis.call('ZADD', queue, string.format('%.0f', now + tonumber(ARGV[at + 4])), id)
  else
    redis.call('ZADD', queue, score or at_ms, id)
  end
  rings = true
  return 'ok'
end

local at = 9
for k = 2, #KEYS, 2 do
  out[#out + 1] = settle(KEYS[k], KEYS[k + 1], at)
  at = at + 12 + ARGV[at + 11]
end
if #over > 0 then jobs_clear(queue, over) end
if rings then redis.call('PUBLISH', 'rt:doorbell:' .. queue, 'job') end
return out

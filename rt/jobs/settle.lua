-- Ends one run: its last events, the job's status and everything of the queue's, at one instant.
-- KEYS: log, meta, queue. ARGV: word, id, tenant, fence, kind, length, log_ttl_s, meta_ttl_s, delay_ms, result (JSON),
-- error (JSON), usage (JSON), arq's result, its ttl_ms, the error in short (JSON), the bounds of letters (3), number of the last
-- batch that was answered, number of events, events...
-- kind: completed, failed, cancelled, retrying, handed_back.
-- Returns { 'ok' } or { 'fenced' } or { 'cancelled', by } (then it must be settled as cancelled) or { 'behind' } (handed back).
local log, meta, queue = KEYS[1], KEYS[2], KEYS[3]
local id, tenant, fence, kind = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local m = redis.call('HMGET', meta, 'fence', 'cancel', 'settled', 'score', 'batch')
if m[1] ~= fence then
  -- The answer to this very call may have been lost on its way.
  return { m[3] == fence .. ' ' .. kind and 'ok' or 'fenced' }
end
if m[2] and kind ~= 'cancelled' then return { 'cancelled', m[2] } end
-- Redis was set back and has lost some of the output (see append.lua): nothing of this attempt may follow on that hole.
local behind = tonumber(m[5] or 0) < tonumber(ARGV[19])
if behind and kind ~= 'cancelled' and kind ~= 'handed_back' then return { 'behind' } end
local events = {}
if not (behind and kind == 'handed_back') then
  for i = 1, tonumber(ARGV[20]) do events[i] = ARGV[20 + i] end
end
local epoch, seq = stream_open(log, meta, ARGV[1])
if #events > 0 then stream_add(log, meta, epoch, seq, events, { ARGV[6], ARGV[7], ARGV[8] }) end
local now = now_ms()
redis.call('HDEL', meta, 'fence')
redis.call('HSET', meta, 'settled', fence .. ' ' .. kind)
if ended[kind] then
  redis.call('HSET', meta, 'status', kind, 'finished', string.format('%.0f', now))
  for field, at in pairs({ result = 10, error = 11, usage = 12 }) do
    if ARGV[at] ~= '' then redis.call('HSET', meta, field, ARGV[at]) end
  end
  if kind == 'failed' then
    letter_keep(tenant, id, redis.call('GET', 'arq:job:' .. id), ARGV[15], now, { ARGV[16], ARGV[17], ARGV[18] })
  end
  job_result(id, ARGV[13], ARGV[14])
  job_clear(queue, tenant, id)
  return { 'ok' }
end
redis.call('DEL', 'arq:in-progress:' .. id)
redis.call('ZREM', 'rt:leases:' .. queue, id)
if kind == 'retrying' then
  redis.call('HSET', meta, 'status', 'retrying', 'restart', 'error', 'error', ARGV[11])
  job_note_error(meta, ARGV[15], now)
  redis.call('ZADD', queue, string.format('%.0f', now + tonumber(ARGV[9])), id)
else
  -- A deploy took the run away, or Redis lost some of it: back to its place at the head of the queue, and not counted.
  redis.call('HSET', meta, 'status', 'queued', 'restart', behind and 'lease_lost' or 'deploy')
  redis.call('HINCRBY', meta, 'tries', -1)
  redis.call('ZADD', queue, m[4] or string.format('%.0f', now), id)
end
redis.call('PUBLISH', 'rt:doorbell:' .. queue, 'job')
return { 'ok' }

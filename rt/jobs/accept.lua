-- Accepts a job: idempotency, queueing, `job.queued` and each `job.created` together or not at all.
-- KEYS: log, meta, the submitting session's cursors, queue, arq:job:<id>, index, owner's index, the dead letter that is run again
-- (or meta), then log and meta of each stream that the job reports to, then the records.
-- ARGV: see queue.py. Returns { 'ok' | 'duplicate', '<job id> <1 when a duplicate>' } or { 'conflict' | 'busy' | 'taken' | 'gone' }
-- or { 'full', waiting }.
local word, id, payload, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keep = { ARGV[5], ARGV[6], ARGV[7] }
local hash, record_ttl, generation, limit = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local delay, payload_ttl, wait, tenant = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15]
local queue, reports, letter = KEYS[4], ARGV[16], KEYS[8] ~= KEYS[2] and KEYS[8]
local told = tonumber(ARGV[17])  -- streams that it reports to; for each: the event, length, log_ttl_s, meta_ttl_s
local records = 9 + 2 * told
if generation ~= '' and redis.call('HGET', KEYS[3], 'generation') ~= generation then return { 'taken' } end
for k = records, #KEYS do
  local known = redis.call('GET', KEYS[k])
  if known then
    local state, known_hash, answer = string.match(known, '^(%a) (%S+) ?(.*)$')
    if known_hash ~= hash then return { 'conflict' } end
    if state == 'p' then return { 'busy' } end
    -- A command that is sent again gets its own answer again; another command with a known key is told "duplicate", and
    -- its own record says so from now on.
    if not string.find(KEYS[k], ':idem:c:', 1, true) then answer = string.match(answer, '^%S+') .. ' 1' end
    for other = records, #KEYS do redis.call('SET', KEYS[other], 'd ' .. hash .. ' ' .. answer, 'EX', record_ttl, 'NX') end
    return { 'duplicate', answer }
  end
end
if letter then
  local again = redis.call('HMGET', letter, 'finished', 'retried_as')
  if again[2] then return { 'duplicate', again[2] .. ' 1' } end
  if not again[1] then return { 'gone' } end
end
local waiting = redis.call('ZCARD', queue) - redis.call('ZCARD', 'rt:leases:' .. queue)
if waiting >= limit then return { 'full', waiting } end
local now = now_ms()
local due = string.format('%.0f', now + delay)
local deadline = string.format('%.0f', now + delay + wait)
now = string.format('%.0f', now)
-- What is known of a job outlives its wait, however long it is put off.
local put_off = math.ceil((delay + wait) / 1000)
local kept = { keep[1], keep[2] + put_off, keep[3] + put_off }
-- First where it is announced: who expects the job follows it by then, and takes its own stream's first event as it comes.
for n = 0, told - 1 do
  local its, at = stream_open(KEYS[9 + 2 * n], KEYS[10 + 2 * n], word), 18 + 4 * n
  stream_add(its, { ARGV[at] }, { ARGV[at + 1], ARGV[at + 2], ARGV[at + 3] })
end
stream_add(stream_open(KEYS[1], KEYS[2], word), { event }, kept, 'status', 'queued', 'attempt', 0, 'tries', 0, 'created', now, 'score', due,
  'deadline', deadline, 'reports', reports, unpack(ARGV, 18 + 4 * told))
redis.call('SET', KEYS[5], payload, 'PX', payload_ttl + delay)
redis.call('ZADD', queue, due, id)
redis.call('ZADD', 'rt:deadlines:' .. queue, deadline, tenant .. ' ' .. id)
if tenant ~= '-' then redis.call('HSET', 'rt:tenants:' .. queue, id, tenant) end
-- An index keeps what its jobs' metas keep.
for k = 6, 7 do
  redis.call('ZADD', KEYS[k], now, id)
  redis.call('ZREMRANGEBYSCORE', KEYS[k], '-inf', string.format('%.0f', now - keep[3] * 1000))
  redis.call('EXPIRE', KEYS[k], keep[3])
end
if letter then redis.call('HSET', letter, 'retried_as', id) end
for k = records, #KEYS do redis.call('SET', KEYS[k], 'd ' .. hash .. ' ' .. id .. ' 0', 'EX', record_ttl) end
redis.call('PUBLISH', 'rt:doorbell:' .. queue, 'job')
return { 'ok', id .. ' 0' }

-- Claims up to `want` jobs in one round trip: lapsed leases first, then what is due.
-- KEYS: queue, the claimer's last number. ARGV: want, lease_ms, claimer, number, timeout_ms (of jobs that say nothing), then `ends` of job.lua.
-- Returns { now, next due or 0, waiting, claims }; a claim is { id, payload, tenant, meta field, value, ... }.
--
-- A claimer counts its calls, and repeats one whose answer was lost under the same number: it is told again what it holds since.
-- A call that comes late, when a higher number was there, claims nothing: nobody would hear of it.
--
-- A claimed id stays in arq's queue (arq's clients look for it there), parked a day ahead, so that running jobs are
-- never scanned; `rt:leases:<queue>` holds when each lease ends. The fence in the job's meta is what every write of
-- the attempt is checked against.
local queue, leases = KEYS[1], 'rt:leases:' .. KEYS[1]
local want, lease, number = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local token, ends = ARGV[3] .. '.' .. number, { unpack(ARGV, 6) }
local now = now_ms()
local function ms(value) return string.format('%.0f', value) end
local parked = ms(now + 86400000)
local claims = {}

local function tell(id, payload, tenant, meta)
  local found = { id, payload, tenant }
  for _, one in ipairs(redis.call('HGETALL', meta)) do found[#found + 1] = one end
  claims[#claims + 1] = found
end

local function claim(id)
  local lock = 'arq:in-progress:' .. id
  if redis.call('EXISTS', lock) == 1 then
    -- Leased, or a plain arq Worker's: Job.abort() made it look due. It is looked at again when the lock can have lapsed.
    redis.call('ZADD', queue, 'XX', ms(now + math.max(redis.call('PTTL', lock), 100)), id)
    return
  end
  local payload = redis.call('GET', 'arq:job:' .. id)
  local tenant = job_tenant(queue, id)
  local log, meta = job_keys(tenant, id)
  if job_over(queue, tenant, id, payload) then return end
  local m = redis.call('HMGET', meta, 'status', 'tries', 'max', 'cancel', 'deadline', 'started', 'timeout_ms', 'fence')
  if not payload then
    job_end(queue, tenant, id, payload, 'failed', failed_data('expired', 'the payload of the job has expired'), ends)
    return
  end
  local by = m[4] or (redis.call('ZSCORE', 'arq:abort', id) and 'arq')
  if not by and redis.call('ZSCORE', queue, id) == '1' then
    -- Job.abort() of a deferred job makes it due first, and says why in its next command.
    redis.call('ZADD', queue, ms(now + 100), id)
    return
  end
  if by then
    job_end(queue, tenant, id, payload, 'cancelled', cancelled_data(by), ends)
    return
  end
  if m[3] and tonumber(m[2]) >= tonumber(m[3]) then
    job_end(queue, tenant, id, payload, 'failed', failed_data('lease_lost', 'its workers were lost ' .. m[2] .. ' times'), ends)
    return
  end
  if m[5] and tonumber(m[5]) <= now then
    local code = m[6] and 'timeout' or 'expired'
    job_end(queue, tenant, id, payload, 'failed', failed_data(code, 'not finished in time'), ends)
    return
  end
  if m[8] then  -- nobody settled the attempt that held the fence
    job_note_error(meta, '{"code":"lease_lost","message":"its worker was lost","temporary":true}', now)
    redis.call('HDEL', meta, 'restart')
  end
  stream_open(log, meta, ends[1])
  local attempt = redis.call('HINCRBY', meta, 'attempt', 1)
  redis.call('HINCRBY', meta, 'tries', 1)
  redis.call('HSET', meta, 'status', 'running', 'fence', attempt .. ':' .. token)
  redis.call('HDEL', meta, 'batch')
  expire(meta, ends[4])
  if not m[6] then
    local deadline = ms(now + tonumber(m[7] or ARGV[5]))
    redis.call('HSET', meta, 'started', ms(now), 'deadline', deadline)
    redis.call('ZADD', 'rt:deadlines:' .. queue, ms(deadline + 5000), tenant .. ' ' .. id)
  end
  job_hold(queue, id, attempt .. ':' .. token, lease)
  redis.call('ZADD', queue, parked, id)
  tell(id, payload, tenant, meta)
end

-- What an earlier answer to this call told, if it has not been given to another meanwhile; the lease begins anew.
local function tell_again()
  for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local tenant = job_tenant(queue, id)
    local _, meta = job_keys(tenant, id)
    local fence, payload = redis.call('HGET', meta, 'fence'), redis.call('GET', 'arq:job:' .. id)
    if fence and payload and string.match(fence, ':(.*)$') == token then
      job_hold(queue, id, fence, lease)
      tell(id, payload, tenant, meta)
    end
  end
end

-- What ends here takes no slot, so a page more is read until the slots are full or nothing is due.
local function each_due(key, take)
  for _ = 1, 10 do
    local due = #claims < want and redis.call('ZRANGEBYSCORE', key, '-inf', ms(now), 'LIMIT', 0, want - #claims) or {}
    if #due == 0 then return end
    for _, id in ipairs(due) do take(id) end
  end
end

local last, spared = tonumber(redis.call('GET', KEYS[2]) or 0), leases_spared()
if number == last then
  tell_again()
elseif number > last then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', 3600)
  if not spared then
    each_due(leases, function(id)
      redis.call('ZREM', leases, id)
      if redis.call('ZSCORE', queue, id) then claim(id) end
    end)
  end
  each_due(queue, claim)
end
local next_due = spared and now + redis.call('PTTL', 'rt:grace') or 0
for _, key in ipairs({ queue, leases }) do
  local head = redis.call('ZRANGEBYSCORE', key, '(' .. ms(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local score = head[2] and tonumber(head[2]) or 0
  if score > 0 and (next_due == 0 or score < next_due) then next_due = score end
end
return { ms(now), ms(next_due), redis.call('ZCARD', queue) - redis.call('ZCARD', leases), claims }

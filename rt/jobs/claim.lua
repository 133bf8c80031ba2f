-- Claims up to `want` jobs in one round trip: lapsed leases first, then what is due.
-- KEYS: queue, the claimer's last number. ARGV: want, lease_ms, claimer, number, timeout_ms (of jobs that say nothing), then `ends` of job.lua.
-- Returns { now, next due or 0, claims }; a claim is { id, payload, tenant, fence, attempt, tries, job, created, started, deadline,
-- restart, checkpoint, checkpoint_seq }, the last three of a later attempt, and false what is not known.
--
-- A claimer counts its calls, and repeats one whose answer was lost under the same number: it is told again what it holds since.
-- A call that comes late, when a higher number was there, claims nothing: nobody would hear of it.
--
-- A claimed id stays in arq's queue (arq's clients look for it there), parked a day ahead, so that running jobs are
-- never scanned. That is a ZINCRBY, of which Redis notifies as such: whoever waits for a ZADD to the queue is not woken by it.
-- `rt:leases:<queue>` holds when each lease ends. The fence in the job's meta is what every write of the attempt is checked against.
local queue, leases = KEYS[1], 'rt:leases:' .. KEYS[1]
local want, lease, number = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local token, ends = ARGV[3] .. '.' .. number, { unpack(ARGV, 6) }
local now = now_ms()
local function ms(value) return string.format('%.0f', value) end
local parked = now + 86400000
local claims = {}
-- What the claims of a page write to the sorted sets, in one command each: scores and members.
local to_hold, to_end = {}, {}

local function put(into, score, member)
  into[#into + 1] = score
  into[#into + 1] = member
end

local function flush(key, some)
  if #some > 0 then redis.call('ZADD', key, unpack(some)) end
end

local function claim(id, lock, payload, tenant, aborted, score)
  if lock then
    -- Leased, or a plain arq Worker's: Job.abort() made it look due. It is looked at again when the lock can have lapsed.
    redis.call('ZADD', queue, 'XX', ms(now + math.max(redis.call('PTTL', 'arq:in-progress:' .. id), 100)), id)
    return
  end
  local log, meta = job_keys(tenant, id)
  local function look()
    return stream_look(log, meta, 'status', 'tries', 'max', 'cancel', 'deadline', 'started', 'timeout_ms', 'fence', 'attempt', 'job', 'created')
  end
  local stream, status, tries, max, cancel, deadline, started, timeout, fence, attempt, job, created = look()
  if ended[status] then
    if job_over(queue, tenant, id, payload) then return end
    stream, status, tries, max, cancel, deadline, started, timeout, fence, attempt, job, created = look()
  end
  if not payload then
    job_end(queue, tenant, id, payload, 'failed', failed_data('expired', 'the payload of the job has expired'), ends)
    return
  end
  local by = cancel or (aborted and 'arq')
  if not by and score == '1' then
    -- Job.abort() of a deferred job makes it due first, and says why in its next command.
    redis.call('ZADD', queue, ms(now + 100), id)
    return
  end
  if by then
    job_end(queue, tenant, id, payload, 'cancelled', cancelled_data(by), ends)
    return
  end
  if max and tonumber(tries) >= tonumber(max) then
    job_end(queue, tenant, id, payload, 'failed', failed_data('lease_lost', 'its workers were lost ' .. tries .. ' times'), ends)
    return
  end
  if deadline and tonumber(deadline) <= now then
    local code = started and 'timeout' or 'expired'
    job_end(queue, tenant, id, payload, 'failed', failed_data(code, 'not finished in time'), ends)
    return
  end
  if fence then  -- nobody settled the attempt that held it
    job_note_error(meta, '{"code":"lease_lost","message":"its worker was lost","temporary":true}', now)
    redis.call('HDEL', meta, 'restart')
  end
  stream_begin(stream, ends[1])
  if not stream.renewed then expire(meta, ends[4]) end
  attempt, tries = (attempt or 0) + 1, (tries or 0) + 1
  fence = attempt .. ':' .. token
  if not started then
    started, deadline = ms(now), ms(now + tonumber(timeout or ARGV[5]))
    put(to_end, ms(deadline + 5000), tenant .. ' ' .. id)
  end
  redis.call('HSET', meta, 'status', 'running', 'attempt', attempt, 'tries', tries, 'fence', fence, 'batch', 0, 'started', started,
    'deadline', deadline)
  redis.call('SET', 'arq:in-progress:' .. id, fence, 'PX', lease)
  put(to_hold, ms(now + lease), id)
  redis.call('ZINCRBY', queue, ms(parked - score), id)
  local again = attempt > 1 and redis.call('HMGET', meta, 'restart', 'checkpoint', 'checkpoint_seq') or {}
  claims[#claims + 1] = { id, payload, tenant, fence, attempt, tries, job, created, started, deadline, again[1] or false, again[2] or false,
    again[3] or false }
end

-- What an earlier answer to this call told, if it has not been given to another meanwhile; the lease begins anew.
local function tell_again()
  for _, id in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local tenant = job_tenant(queue, id)
    local _, meta = job_keys(tenant, id)
    local fence, payload = redis.call('HGET', meta, 'fence'), redis.call('GET', 'arq:job:' .. id)
    if fence and payload and string.match(fence, ':(.*)$') == token then
      job_hold(queue, id, fence, lease)
      claims[#claims + 1] = { id, payload, tenant, fence, unpack(redis.call('HMGET', meta, 'attempt', 'tries', 'job', 'created', 'started',
        'deadline', 'restart', 'checkpoint', 'checkpoint_seq')) }
    end
  end
end

-- Looks at jobs, read together, which are in the queue under these scores.
local function claim_all(ids, scores)
  local locks, payloads = {}, {}
  for i, id in ipairs(ids) do locks[i], payloads[i] = 'arq:in-progress:' .. id, 'arq:job:' .. id end
  locks, payloads = redis.call('MGET', unpack(locks)), redis.call('MGET', unpack(payloads))
  local tenants = redis.call('HMGET', 'rt:tenants:' .. queue, unpack(ids))
  local aborts = redis.call('ZMSCORE', 'arq:abort', unpack(ids))
  for i, id in ipairs(ids) do
    if scores[i] then claim(id, locks[i], payloads[i], tenants[i] or '-', aborts[i], scores[i]) end
  end
  flush(leases, to_hold)
  flush('rt:deadlines:' .. queue, to_end)
  to_hold, to_end = {}, {}
end

-- What ends here takes no slot, so a page more is read until the slots are full or nothing is due.
local function each_due(key, take)
  for _ = 1, 10 do
    local due = #claims < want and redis.call('ZRANGEBYSCORE', key, '-inf', ms(now), 'WITHSCORES', 'LIMIT', 0, want - #claims) or {}
    if #due == 0 then return end
    local ids, scores = {}, {}
    for i = 1, #due, 2 do ids[#ids + 1], scores[#scores + 1] = due[i], due[i + 1] end
    take(ids, scores)
  end
end

local last, spared = tonumber(redis.call('GET', KEYS[2]) or 0), leases_spared()
if number == last then
  tell_again()
elseif number > last then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', 3600)
  if not spared then
    each_due(leases, function(ids)
      redis.call('ZREM', leases, unpack(ids))
      claim_all(ids, redis.call('ZMSCORE', queue, unpack(ids)))
    end)
  end
  each_due(queue, claim_all)
end
local next_due = spared and now + redis.call('PTTL', 'rt:grace') or 0
for _, key in ipairs({ queue, leases }) do
  local head = redis.call('ZRANGEBYSCORE', key, '(' .. ms(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local score = head[2] and tonumber(head[2]) or 0
  if score > 0 and (next_due == 0 or score < next_due) then next_due = score end
end
return { ms(now), ms(next_due), claims }

-- Library of the scripts that move jobs. Comes after streams/stream.lua.
--
-- A job's keys follow from its id and tenant. Whose an unfinished job is stands in `rt:tenants:<queue>` (its payload may
-- expire before it); one that does not stand there, such as a plain arq client's, is of the default tenant. Times are
-- Redis's own, in ms.

local function job_tenant(queue, id)
  return redis.call('HGET', 'rt:tenants:' .. queue, id) or '-'
end

-- As `rt.keys.escape`: what a stream name cannot hold is percent-encoded.
local function escape(text)
  return (string.gsub(text, '[^A-Za-z0-9._~@+=-]', function(c) return string.format('%%%02X', string.byte(c)) end))
end

local function job_stream(id)
  return 'job:' .. escape(id)
end

local function job_keys(tenant, id)
  local base = 'rt:' .. tenant .. ':{' .. job_stream(id) .. '}:'
  return base .. 'log', base .. 'meta'
end

-- Everything of arq's, and of ours, that says "unfinished", of `jobs` = { { id, tenant }, ... }.
local function jobs_clear(queue, jobs)
  local ids, keys, members = {}, {}, {}
  for i, job in ipairs(jobs) do
    local id = job[1]
    ids[i], members[i] = id, job[2] .. ' ' .. id
    for _, kind in ipairs({ 'arq:job:', 'arq:retry:', 'arq:in-progress:' }) do keys[#keys + 1] = kind .. id end
    keys[#keys + 1] = 'rt:' .. job[2] .. ':{' .. job_stream(id) .. '}:input'
  end
  redis.call('DEL', unpack(keys))
  redis.call('ZREM', queue, unpack(ids))
  redis.call('ZREM', 'arq:abort', unpack(ids))
  redis.call('ZREM', 'rt:leases:' .. queue, unpack(ids))
  redis.call('ZREM', 'rt:deadlines:' .. queue, unpack(members))
  redis.call('HDEL', 'rt:tenants:' .. queue, unpack(ids))
end

-- Whether lapsed leases are left to their holders for now: Redis was away, so that nobody could renew. Every process calls this
-- once a second (lead.lua), so a longer silence means that no call came through. What holds a lease renews it within the grace:
-- a call that hangs is given up after 2 s, and tried again half a second later.
local pulse_gap_ms, grace_ms = 2500, 3000
local function leases_spared()
  local now = now_ms()
  local last = redis.call('GET', 'rt:pulse')
  redis.call('SET', 'rt:pulse', string.format('%.0f', now), 'EX', 86400)
  if last and now - tonumber(last) > pulse_gap_ms then redis.call('SET', 'rt:grace', 1, 'PX', grace_ms) end
  return redis.call('EXISTS', 'rt:grace') == 1
end

-- The lease of an attempt, and the lock that arq's workers look at, from now on.
local function job_hold(queue, id, fence, lease_ms)
  redis.call('SET', 'arq:in-progress:' .. id, fence, 'PX', lease_ms)
  redis.call('ZADD', 'rt:leases:' .. queue, string.format('%.0f', now_ms() + lease_ms), id)
end

local ended = { completed = true, failed = true, cancelled = true }

-- Whether a payload is a plain arq client's: ours begin with the tenant.
local function job_is_plain(payload)
  return string.sub(payload, 1, 6) ~= '{"rt":'
end

-- The payload of a plain arq client's job that no worker has claimed yet, or nil. `status` is what is known under its id:
-- nothing, or how an older job of the same id has ended.
local function job_unclaimed(queue, tenant, id, status)
  if tenant ~= '-' or (status and not ended[status]) or not redis.call('ZSCORE', queue, id) then return nil end
  local payload = redis.call('GET', 'arq:job:' .. id)
  return payload and job_is_plain(payload) and payload or nil
end

-- Whether the job of this id is over, and then clears what the queue still has of it. A plain arq client may use an id
-- again after arq forgot its result: that is another job, under another epoch, and what was known of the old one goes.
local function job_over(queue, tenant, id, payload)
  local log, meta = job_keys(tenant, id)
  local status = redis.call('HGET', meta, 'status')
  if not status or not ended[status] then return false end
  if not payload or tenant ~= '-' or not job_is_plain(payload) then
    jobs_clear(queue, { { id, tenant } })
    return true
  end
  redis.call('DEL', log, meta, (string.gsub(log, ':log$', ':text')))
  return false
end

-- arq's own result for arq's clients; `ttl_ms` 0 writes none.
local function job_result(id, result, ttl_ms)
  if tonumber(ttl_ms) > 0 and result ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'PX', ttl_ms) end
end

-- Remembers why an attempt failed: the newest 20 errors, a line each, in the job's meta, which are returned.
-- `error` is a JSON object with at least one member.
local function job_note_error(meta, error, now)
  local lines = {}
  for line in string.gmatch(redis.call('HGET', meta, 'errors') or '', '[^\n]+') do lines[#lines + 1] = line end
  local attempt = redis.call('HGET', meta, 'attempt') or 0
  lines[#lines + 1] = string.format('{"attempt":%d,"at":%.0f,', attempt, now) .. string.sub(error, 2)
  local errors = table.concat(lines, '\n', math.max(1, #lines - 19))
  redis.call('HSET', meta, 'errors', errors)
  return errors
end

-- The dead letter of a job, and its tenant's list of them; an owner's own list is `<list>:<owner>`.
local function letter_keys(tenant, id)
  return 'rt:' .. tenant .. ':{' .. job_stream(id) .. '}:dead', 'rt:' .. tenant .. ':dead'
end

local function letter_drop(tenant, id)
  local letter, list = letter_keys(tenant, id)
  local owner = redis.call('HGET', letter, 'owner') or ''
  redis.call('ZREM', list, id)
  redis.call('ZREM', list .. ':' .. escape(owner), id)
  return redis.call('DEL', letter)
end

local letter_fields = { 'job', 'owner', 'reports', 'request_id', 'retry_of', 'timeout_ms', 'max', 'attempt', 'created', 'started' }

-- Keeps a job that ends as failed at `now` as a dead letter; `error` is what ended it.
-- `bounds` = { age_s, letters of a tenant, bytes of a payload }: letters that are older go, then the oldest above the number.
local function letter_keep(tenant, id, payload, error, now, bounds)
  local _, meta = job_keys(tenant, id)
  local letter, list = letter_keys(tenant, id)
  local age_s, finished = tonumber(bounds[1]), string.format('%.0f', now)
  local record = { 'finished', finished, 'errors', job_note_error(meta, error, now) }
  local function put(field, value)
    record[#record + 1] = field
    record[#record + 1] = value
  end
  for i, value in ipairs(redis.call('HMGET', meta, unpack(letter_fields))) do
    if value then put(letter_fields[i], value) end
  end
  if payload then
    put('payload_bytes', #payload)
    if #payload <= tonumber(bounds[3]) then put('payload', payload) end
  end
  letter_drop(tenant, id)  -- of a plain arq client's job that had the same id
  redis.call('HSET', letter, unpack(record))
  redis.call('EXPIRE', letter, age_s)
  local owner = redis.call('HGET', meta, 'owner') or ''
  for _, one in ipairs({ list, list .. ':' .. escape(owner) }) do
    redis.call('ZADD', one, finished, id)
    redis.call('ZREMRANGEBYSCORE', one, '-inf', string.format('%.0f', now - age_s * 1000))
    redis.call('EXPIRE', one, age_s)
  end
  redis.call('INCR', 'rt:dead-kept')
  local over = redis.call('ZCARD', list) - tonumber(bounds[2])
  if over > 0 then
    -- Ten at most: a number that was lowered is reached in steps.
    for _, old in ipairs(redis.call('ZRANGE', list, 0, math.min(over, 10) - 1)) do
      letter_drop(tenant, old)
      redis.call('INCR', 'rt:dead-dropped')
    end
  end
end

-- Ends a job that no attempt can end any more. `data` is the terminal event's data as JSON.
-- `ends` = { word, length, log_ttl_s, meta_ttl_s, result_ttl_ms, cancelled (pickle), cancelled (JSON), failed (pickle), failed (JSON),
-- then the bounds of letters (3) }.
local function job_end(queue, tenant, id, payload, status, data, ends)
  if job_over(queue, tenant, id, payload) then return end
  local log, meta = job_keys(tenant, id)
  local now = now_ms()
  local attempt = tonumber(redis.call('HGET', meta, 'attempt') or 0)
  local event = '{"type":"job.' .. status .. '","stream":"' .. job_stream(id) .. '","ts":' .. string.format('%.0f', now)
  if attempt > 0 then event = event .. ',"attempt":' .. attempt end
  event = event .. ',"data":' .. data .. ',"final":true}'
  local keep = { ends[2], ends[3], ends[4] }
  stream_add(stream_open(log, meta, ends[1]), { event }, keep, 'status', status, 'finished', string.format('%.0f', now))
  if status == 'failed' then
    local error = string.match(data, '^{"error":(.*)}$')
    redis.call('HSET', meta, 'error', error)
    letter_keep(tenant, id, payload, error, now, { ends[10], ends[11], ends[12] })
  end
  redis.call('HDEL', meta, 'fence')
  -- The result is in the codec of whoever enqueued it.
  local at = status == 'cancelled' and 6 or 8
  if payload and string.sub(payload, 1, 1) == '{' then at = at + 1 end
  job_result(id, ends[at], ends[5])
  jobs_clear(queue, { { id, tenant } })
end

local function cancelled_data(by)
  return '{"by":' .. cjson.encode(by) .. '}'
end

local function failed_data(code, message)
  return '{"error":{"code":"' .. code .. '","message":"' .. message .. '","temporary":false}}'
end

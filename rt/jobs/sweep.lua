-- The janitor's look at a queue: ends what must end also when no worker is alive. Each step is repeatable.
-- KEYS: queue. ARGV: most of each, then `ends` of job.lua. Returns how many jobs it ended.
local queue, most = KEYS[1], tonumber(ARGV[1])
local ends, count = { unpack(ARGV, 2) }, 0
local now = string.format('%.0f', now_ms())

local function finish(tenant, id, payload, status, data)
  job_end(queue, tenant, id, payload, status, data, ends)
  count = count + 1
end

-- Job.abort() of plain arq clients: of a waiting job at once; of a running one the next renewal reports it.
for _, id in ipairs(redis.call('ZRANGE', 'arq:abort', 0, most - 1)) do
  if not redis.call('ZSCORE', queue, id) then
    -- The job is over (or of another queue and over): left behind, the id would kill the next job that carries it.
    if redis.call('EXISTS', 'arq:job:' .. id) == 0 then redis.call('ZREM', 'arq:abort', id) end
  elseif redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 then
    local payload = redis.call('GET', 'arq:job:' .. id)
    finish(job_tenant(queue, id), id, payload, 'cancelled', cancelled_data('arq'))
  end
end

-- Lapsed leases of jobs that may not run again.
local lapsed = leases_spared() and {} or redis.call('ZRANGEBYSCORE', 'rt:leases:' .. queue, '-inf', now, 'LIMIT', 0, most)
for _, id in ipairs(lapsed) do
  if redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 then
    local payload = redis.call('GET', 'arq:job:' .. id)
    local tenant = job_tenant(queue, id)
    local _, meta = job_keys(tenant, id)
    local m = redis.call('HMGET', meta, 'cancel', 'tries', 'max')
    if m[1] then
      finish(tenant, id, payload, 'cancelled', cancelled_data(m[1]))
    elseif m[3] and tonumber(m[2]) >= tonumber(m[3]) then
      finish(tenant, id, payload, 'failed', failed_data('lease_lost', 'its workers were lost ' .. m[2] .. ' times'))
    end
  end
end

-- Deadlines; a worker that lives ends its jobs itself a few seconds earlier.
for _, member in ipairs(redis.call('ZRANGEBYSCORE', 'rt:deadlines:' .. queue, '-inf', now, 'LIMIT', 0, most)) do
  local tenant, id = string.match(member, '^(%S+) (.*)$')
  local _, meta = job_keys(tenant, id)
  local m = redis.call('HMGET', meta, 'status', 'started', 'cancel')
  if m[1] and not ended[m[1]] then
    local payload = redis.call('GET', 'arq:job:' .. id)
    if m[3] then
      finish(tenant, id, payload, 'cancelled', cancelled_data(m[3]))
    else
      finish(tenant, id, payload, 'failed', failed_data(m[2] and 'timeout' or 'expired', 'not finished in time'))
    end
  else
    redis.call('ZREM', 'rt:deadlines:' .. queue, member)
  end
end
return count

-- Library of the scripts that move jobs. Comes after streams/stream.lua.
--
-- A job's keys follow from its id and tenant. The tenant stands at the front of our own payloads; a plain arq client's
-- payload has none and belongs to the default tenant. Times are Redis's own, in ms.

local function job_tenant(payload)
  return payload and string.match(payload, '^{"rt":"([%w_-]+)"') or '-'
end

-- As `rt.keys.escape`: what a stream name cannot hold is percent-encoded.
local function job_stream(id)
  return 'job:' .. string.gsub(id, '[^A-Za-z0-9._~@+=-]', function(c) return string.format('%%%02X', string.byte(c)) end)
end

local function job_keys(tenant, id)
  local base = 'rt:' .. tenant .. ':{' .. job_stream(id) .. '}:'
  return base .. 'log', base .. 'meta'
end

-- Everything of arq's, and of ours, that says "unfinished".
local function job_clear(queue, tenant, id)
  redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'arq:in-progress:' .. id)
  redis.call('ZREM', queue, id)
  redis.call('ZREM', 'arq:abort', id)
  redis.call('ZREM', 'rt:leases:' .. queue, id)
  redis.call('ZREM', 'rt:deadlines:' .. queue, tenant .. ' ' .. id)
end

local ended = { completed = true, failed = true, cancelled = true }

-- Whether the job of this id is over, and then clears what the queue still has of it. A plain arq client may use an id
-- again after arq forgot its result: that is another job, under another epoch, and what was known of the old one goes.
local function job_over(queue, tenant, id, payload)
  local log, meta = job_keys(tenant, id)
  local status = redis.call('HGET', meta, 'status')
  if not status or not ended[status] then return false end
  if not payload or tenant ~= '-' or string.sub(payload, 1, 6) == '{"rt":' then
    job_clear(queue, tenant, id)
    return true
  end
  redis.call('DEL', log, meta)
  return false
end

-- arq's own result for arq's clients; `ttl_ms` 0 writes none.
local function job_result(id, result, ttl_ms)
  if tonumber(ttl_ms) > 0 and result ~= '' then redis.call('SET', 'arq:result:' .. id, result, 'PX', ttl_ms) end
end

-- Ends a job that no attempt can end any more. `data` is the terminal event's data as JSON.
-- `ends` = { word, length, log_ttl_s, meta_ttl_s, result_ttl_ms, cancelled (pickle), cancelled (JSON), failed (pickle), failed (JSON) }.
local function job_end(queue, tenant, id, payload, status, data, ends)
  if job_over(queue, tenant, id, payload) then return end
  local log, meta = job_keys(tenant, id)
  local now = now_ms()
  local attempt = tonumber(redis.call('HGET', meta, 'attempt') or 0)
  local event = '{"type":"job.' .. status .. '","stream":"' .. job_stream(id) .. '","ts":' .. string.format('%.0f', now)
  if attempt > 0 then event = event .. ',"attempt":' .. attempt end
  event = event .. ',"data":' .. data .. ',"final":true}'
  local epoch, seq = stream_open(log, meta, ends[1])
  stream_add(log, meta, epoch, seq, { event }, { ends[2], ends[3], ends[4] })
  redis.call('HSET', meta, 'status', status, 'finished', string.format('%.0f', now))
  if status == 'failed' then redis.call('HSET', meta, 'error', (string.match(data, '^{"error":(.*)}$'))) end
  redis.call('HDEL', meta, 'fence')
  -- The result is in the codec of whoever enqueued it.
  local at = status == 'cancelled' and 6 or 8
  if payload and string.sub(payload, 1, 1) == '{' then at = at + 1 end
  job_result(id, ends[at], ends[5])
  job_clear(queue, tenant, id)
end

local function cancelled_data(by)
  return '{"by":' .. cjson.encode(by) .. '}'
end

local function failed_data(code, message)
  return '{"error":{"code":"' .. code .. '","message":"' .. message .. '","temporary":false}}'
end

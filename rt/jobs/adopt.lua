-- Takes up a job that Redis knows from its payload only (a plain arq client's, or one whose meta was lost): writes down what
-- that says, once a worker has read it, and its `job.queued`.
-- KEYS: log, meta, index. ARGV: word, fence, id, tenant, queue, timeout_ms, event, length, log_ttl_s, meta_ttl_s, then fields and values.
-- Returns the job's deadline, or 0 when fenced. A repeat finds it done.
local log, meta = KEYS[1], KEYS[2]
local fence, id, tenant, queue = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local m = redis.call('HMGET', meta, 'fence', 'job', 'started', 'deadline')
if m[1] ~= fence then return 0 end
if m[2] then return tonumber(m[4]) end
stream_add(stream_open(log, meta, ARGV[1]), { ARGV[7] }, { ARGV[8], ARGV[9], ARGV[10] })
local deadline = string.format('%.0f', m[3] + ARGV[6])
redis.call('HSET', meta, 'deadline', deadline, unpack(ARGV, 11))
redis.call('ZADD', 'rt:deadlines:' .. queue, string.format('%.0f', deadline + 5000), tenant .. ' ' .. id)
redis.call('ZADD', KEYS[3], m[3], id)
return tonumber(deadline)

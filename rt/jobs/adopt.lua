-- Writes down what only the payload of a plain arq client said, once a worker has read it.
-- KEYS: meta, index. ARGV: fence, id, queue, timeout_ms, field and value pairs. Returns 1, or 0 when fenced.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
local started = tonumber(redis.call('HGET', KEYS[1], 'started'))
local deadline = string.format('%.0f', started + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'deadline', deadline, unpack(ARGV, 5))
redis.call('ZADD', 'rt:deadlines:' .. ARGV[3], string.format('%.0f', deadline + 5000), '- ' .. ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', started), ARGV[2])
return tonumber(deadline)

-- What is known of a job. KEYS: meta, queue. ARGV: id, tenant.
-- Returns { payload or false, field, value, ... }: with a payload it is a plain arq client's job that no worker has claimed yet.
local out = { false, unpack(redis.call('HGETALL', KEYS[1])) }
out[1] = job_unclaimed(KEYS[2], ARGV[2], ARGV[1], redis.call('HGET', KEYS[1], 'status')) or false
return out

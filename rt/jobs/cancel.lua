-- Cancels a job. KEYS: meta, queue. ARGV: id, tenant, by, then `ends` of job.lua.
-- Returns { status before, status now }; { false } when there is no such job. A running job keeps the flag: its next append or
-- renewal reports it, and a nudge tells its worker at once. A job that waits ends here.
local queue, id, tenant, by = KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local ends = { unpack(ARGV, 4) }
local m = redis.call('HMGET', KEYS[1], 'status', 'fence', 'cancel')
local unclaimed = job_unclaimed(queue, tenant, id, m[1])
if unclaimed then
  job_end(queue, tenant, id, unclaimed, 'cancelled', cancelled_data(by), ends)
  return { 'queued', 'cancelled' }
end
if not m[1] then return { false } end
if ended[m[1]] then return { m[1], m[1] } end
if m[2] then
  if not m[3] then redis.call('HSET', KEYS[1], 'cancel', by) end
  redis.call('PUBLISH', 'rt:doorbell:' .. queue, 'cancel ' .. id)
  return { m[1], m[1] }
end
job_end(queue, tenant, id, redis.call('GET', 'arq:job:' .. id), 'cancelled', cancelled_data(by), ends)
return { m[1], 'cancelled' }

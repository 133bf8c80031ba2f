-- Renews the leases of running attempts, and reports what has happened to them.
-- KEYS: queue. ARGV: lease_ms, then id, tenant, fence of each. Returns for each 'ok', 'lost' or 'cancel <by>'.
-- A lapsed lease that nobody took is taken again: Redis may have been away longer than the lease.
local queue, lease, out = KEYS[1], tonumber(ARGV[1]), {}
for i = 2, #ARGV, 3 do
  local id, tenant, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local _, meta = job_keys(tenant, id)
  local m = redis.call('HMGET', meta, 'fence', 'cancel')
  if m[1] ~= fence then
    out[#out + 1] = 'lost'
  else
    job_hold(queue, id, fence, lease)
    if not m[2] and redis.call('ZSCORE', 'arq:abort', id) then
      redis.call('HSET', meta, 'cancel', 'arq')
      m[2] = 'arq'
    end
    out[#out + 1] = m[2] and ('cancel ' .. m[2]) or 'ok'
  end
end
return out

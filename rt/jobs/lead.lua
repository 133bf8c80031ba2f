-- Each process's call of every second: Redis can be reached, and one of them is the janitor.
-- KEYS: the janitor's lease. ARGV: token, lease_ms. Returns 1 for the janitor.
leases_spared()
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1

-- A connection's generation was refused: there is a newer one, or Redis has lost the session under a connection that lives.
-- What was lost is written again, as that connection knows it.
-- KEYS: the session's cursors. ARGV: generation, owner, ttl_s, then its other fields and values.
-- Returns 1 when the session is this connection's, 0 when a newer connection has it.
local m = redis.call('HMGET', KEYS[1], 'generation', 'owner')
if tonumber(m[1] or 0) > tonumber(ARGV[1]) or (m[2] or ARGV[2]) ~= ARGV[2] then return 0 end
if m[1] == ARGV[1] then return 1 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'owner', ARGV[2])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1

-- Ends what begin.lua began. KEYS: record. ARGV: hash, token, answer ('' forgets it: a temporary error), ttl_s.
-- Returns 1, or 0 when somebody else has begun it since.
if redis.call('GET', KEYS[1]) ~= 'p ' .. ARGV[1] .. ' ' .. ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], 'd ' .. ARGV[1] .. ' ' .. ARGV[3], 'EX', ARGV[4])
end
return 1

-- Begins streams that do not exist yet, or whose epoch is of another incarnation of Redis, so that their epoch can be named.
-- KEYS: log, meta for each. ARGV: word, meta_ttl_s. Their heads are read afterwards.
for k = 1, #KEYS, 2 do
  local opened, refusal = pcall(stream_open, KEYS[k], KEYS[k + 1], ARGV[1])
  -- A full Redis takes no write; what is there can be read all the same.
  if not opened and redis.call('HEXISTS', KEYS[k + 1], 'epoch') == 0 then error(refusal) end
  expire(KEYS[k + 1], ARGV[2])
end
return #KEYS / 2

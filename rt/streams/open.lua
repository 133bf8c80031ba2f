-- Begins streams that do not exist yet, or whose epoch is of another incarnation of Redis, so that their epoch can be named.
-- KEYS: log, meta, text for each. ARGV: word, meta_ttl_s. Their heads are read afterwards.
for k = 1, #KEYS, 3 do
  -- A full Redis takes no new epoch: what is there can be read all the same.
  pcall(stream_open, KEYS[k], KEYS[k + 1], ARGV[1])
  expire(KEYS[k + 1], ARGV[2])
end
return #KEYS / 3

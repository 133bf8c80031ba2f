-- Begins streams that do not exist yet, so that their epoch can be named. KEYS: log, meta for each.
-- ARGV: word, meta_ttl_s. Their heads are read afterwards.
for k = 1, #KEYS, 2 do
  stream_open(KEYS[k], KEYS[k + 1], ARGV[1])
  expire(KEYS[k + 1], ARGV[2])
end
return #KEYS / 2

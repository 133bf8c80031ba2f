-- Library of the scripts that note that a subject is there. The sorted set of them has scores in microseconds, so that hardly any
-- two are the same: who reads it in pages goes on from the last one's. `nth` tells apart what one script notes.
local function note_seen(key, subject, age_s, nth)
  local t = redis.call('TIME')
  local now = t[1] * 1000000 + t[2] + nth
  redis.call('ZADD', key, string.format('%.0f', now), subject)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - age_s * 1000000))
  redis.call('EXPIRE', key, age_s)
end

-- Library of the scripts that note that a subject is there. The sorted set of them has scores in microseconds, so that hardly any
-- two are the same: who reads it in pages goes on from the last one's. It is noted once in a quarter of the time for which it counts,
-- and so kept for a quarter longer. `now` is in microseconds; trimming is for who comes seldom, and where the set has grown.
local function note_seen(key, subject, age_s, now, trim)
  local kept_s = math.ceil(age_s * 1.25)
  local grown = redis.call('ZADD', key, string.format('%.0f', now), subject)
  redis.call('EXPIRE', key, kept_s)
  if trim or grown == 1 then redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - kept_s * 1000000)) end
end

local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

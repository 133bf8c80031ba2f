-- A part of a broadcast: one notification to each of many subjects, once each however often it is called.
-- KEYS: whom it has reached (a hash), then for each subject: log, meta, unread, muted.
-- ARGV: word, level, length, log_ttl_s, meta_ttl_s, muted_ttl_s, reached_ttl_s, then for each: subject, event.
-- Returns how many it was sent to so far, and how many have its level muted.
local reached = KEYS[1]
local function count(kind) redis.call('HINCRBY', reached, kind, 1) end
for n = 0, (#KEYS - 1) / 4 - 1 do
  local k, a = 2 + 4 * n, 8 + 2 * n
  if redis.call('HSETNX', reached, '=' .. ARGV[a], '') == 1 then
    local sent = inbox_add(KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], ARGV[1], ARGV[a + 1], ARGV[2], { ARGV[3], ARGV[4], ARGV[5] }, ARGV[6])
    count(sent and 'sent' or 'muted')
  end
end
redis.call('EXPIRE', reached, ARGV[7])
local counts = redis.call('HMGET', reached, 'sent', 'muted')
return { tonumber(counts[1] or 0), tonumber(counts[2] or 0) }

-- Stores what many sessions acknowledged and follow, and renews them. A session of another generation is left alone.
-- KEYS: for each session its cursors hash and its subject's furthest acknowledgement.
-- ARGV: ttl_s, furthest_ttl_s; then for each: generation, furthest cursor ('' = none), number of fields, field and value
-- pairs ('' as value deletes).
-- Returns for each 1, or 0 when a newer connection has taken the session over (or it is gone).
local at, out = 3, {}
for k = 1, #KEYS, 2 do
  local key, generation, furthest, count = KEYS[k], ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if redis.call('HGET', key, 'generation') == generation then
    for i = 1, count do
      local field, value = ARGV[at + 1 + 2 * i], ARGV[at + 2 + 2 * i]
      if value == '' then
        redis.call('HDEL', key, field)
      else
        redis.call('HSET', key, field, value)
      end
    end
    redis.call('EXPIRE', key, ARGV[1])
    if furthest ~= '' then
      local known = redis.call('GET', KEYS[k + 1])
      local epoch, seq = string.match(furthest, '^(.*):(%d+)$')
      local old_epoch, old_seq = string.match(known or ':0', '^(.*):(%d+)$')
      if epoch ~= old_epoch or tonumber(seq) > tonumber(old_seq) then
        redis.call('SET', KEYS[k + 1], furthest, 'EX', ARGV[2])
      end
    end
    out[#out + 1] = 1
  else
    out[#out + 1] = 0
  end
  at = at + 3 + 2 * count
end
return out

-- Opens a session, and raises its generation: from here on every older connection of it is refused.
-- KEYS: cursors hash, the session stream's live channel, the furthest acknowledgement of the subject's stream, the seen subjects.
-- ARGV: subject, ttl_s, '1' to begin a new session, the subject's stream, how long a subject counts as seen (s).
-- Returns { 'ok', generation, field, value, ... } or { 'unknown' } or { 'foreign' }.
local now = now_us()
if ARGV[3] == '1' then
  -- What came while nobody was there reaches a new device: it begins where the furthest of the others has been.
  local from = redis.call('GET', KEYS[3]) or '0'
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'generation', 1, 'seen', string.format('%.0f', now), 'c:' .. ARGV[4], from)
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  note_seen(KEYS[4], ARGV[1], ARGV[5], now)
  return { 'ok', 1, 'c:' .. ARGV[4], from }
end
local m = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'seen')
if not m[1] then return { 'unknown' } end
if m[1] ~= ARGV[1] then return { 'foreign' } end
-- By the clock (in microseconds): after a failover that lost the newest generation, counting would give its number again.
local generation = string.format('%.0f', math.max(m[2] + 1, now))
if math.abs(now - (m[3] or 0)) < ARGV[5] * 250000 then
  redis.call('HSET', KEYS[1], 'generation', generation)
else
  redis.call('HSET', KEYS[1], 'generation', generation, 'seen', string.format('%.0f', now))
  note_seen(KEYS[4], ARGV[1], ARGV[5], now)
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
-- An older connection need not wait for its next acknowledgement to learn that it is over.
redis.call('PUBLISH', KEYS[2], '!' .. generation)
local out = { 'ok', generation }
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.match(all[i], '^[cd]:') then
    out[#out + 1] = all[i]
    out[#out + 1] = all[i + 1]
  end
end
return out

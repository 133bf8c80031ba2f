-- Each process's call of every second: its lease is renewed, the sessions of processes that are gone are away, and who was away for
-- too long has left: so much of it at a time that Redis is held for some 20 ms. Any process does what is due.
-- KEYS: processes, who is away, when any process last called, the grace.
-- ARGV: process, lease_ms, away_ms, ttl_s, word, length, log_ttl_s, meta_ttl_s, told_up_to.
-- Returns { 1 when the lease had lapsed or was unknown (then it says again who is there), the incarnation of Redis, how many have left }.
local process, lease_ms, away_ms, ttl_s, word, keep = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], { ARGV[6], ARGV[7], ARGV[8], ARGV[9] }
local now, looked, moved, left = now_ms(), 0, 0, 0
local function ms(at) return string.format('%.0f', at) end
local known = redis.call('ZSCORE', KEYS[1], process)
local lapsed = not known or tonumber(known) < now
redis.call('ZADD', KEYS[1], ms(now + lease_ms), process)
redis.call('EXPIRE', KEYS[1], ttl_s)
-- Where no process could call for longer than a lease, Redis was away, and so nobody could come back: they get the time again.
local last = redis.call('GET', KEYS[3])
redis.call('SET', KEYS[3], ms(now), 'EX', ttl_s)
if last and now - tonumber(last) > lease_ms then redis.call('SET', KEYS[4], 1, 'PX', away_ms) end

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ms(now), 'LIMIT', 0, 10)) do
  local rooms = 'rt:presence:' .. gone
  while looked < 5000 and moved < 500 do
    local place = redis.call('SPOP', rooms)
    if not place then break end
    local tenant, room = string.match(place, '^(%S+) (%S+)$')
    local _, _, presence = room_keys(tenant, room)
    local all = redis.call('HGETALL', presence)
    looked = looked + #all + 1
    for i = 1, #all, 2 do
      local session = string.match(all[i], '^s:(.*)$')
      local held_by, generation, subject = string.match(all[i + 1], '^(%S+) (%d+) (.*)$')
      if session and held_by == gone and moved == 500 then
        -- The rest of this room the next call moves.
        redis.call('SADD', rooms, place)
        redis.call('EXPIRE', rooms, ttl_s)
        break
      elseif session and held_by == gone then
        moved = moved + 1
        presence_put(presence, session, '-', generation, subject, ttl_s)
        redis.call('ZADD', KEYS[2], ms(now + away_ms), place .. ' ' .. session)
      end
    end
  end
  if redis.call('EXISTS', rooms) == 0 then redis.call('ZREM', KEYS[1], gone) end
end

if redis.call('EXISTS', KEYS[4]) == 0 then
  for _, absent in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ms(now), 'LIMIT', 0, 500)) do
    redis.call('ZREM', KEYS[2], absent)
    local tenant, room, session = string.match(absent, '^(%S+) (%S+) (%S+)$')
    local _, _, presence = room_keys(tenant, room)
    local held_by, _, subject = presence_of(presence, session)
    if held_by == '-' and presence_leave(tenant, room, session, subject, word, keep) then left = left + 1 end
  end
end
return { lapsed and 1 or 0, redis.call('GET', 'rt:incarnation') or '', left }

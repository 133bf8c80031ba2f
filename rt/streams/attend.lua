-- Sessions of one process that are in rooms, are away, or have left. Repeated, and late after a newer connection of the session, it
-- changes nothing.
-- KEYS: who is away, the rooms of the process, processes, then the presence of each change's room.
-- ARGV: process, away_ms, ttl_s, word, length, log_ttl_s, meta_ttl_s, told_up_to, then for each change: 'here' | 'away' | 'left', tenant, room,
-- session, generation, subject. Returns the number of changes.
local process, away_ms, ttl_s, word, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], { ARGV[5], ARGV[6], ARGV[7], ARGV[8] }
-- Whoever has something in a room has a lease, if one that has lapsed: otherwise nobody would look after what it leaves behind.
redis.call('ZADD', KEYS[3], 'NX', string.format('%.0f', now_ms()), process)
for k = 4, #KEYS do
  local a = 9 + (k - 4) * 7
  local kind, tenant, room, session, generation, subject, last = unpack(ARGV, a, a + 6)
  if last == '1' then redis.call('SREM', KEYS[2], tenant .. ' ' .. room) end
  local absent = tenant .. ' ' .. room .. ' ' .. session
  local held_by, known = presence_of(KEYS[k], session)
  if kind == 'here' then
    if not known or tonumber(known) <= tonumber(generation) then
      presence_put(KEYS[k], session, process, generation, subject, ttl_s)
      redis.call('ZREM', KEYS[1], absent)
      redis.call('SADD', KEYS[2], tenant .. ' ' .. room)
      redis.call('EXPIRE', KEYS[2], ttl_s)
      if not known then presence_join(tenant, room, subject, word, keep) end
    end
  elseif known == generation and kind == 'left' then
    redis.call('ZREM', KEYS[1], absent)
    presence_leave(tenant, room, session, subject, word, keep)
  elseif known == generation and held_by == process then
    presence_put(KEYS[k], session, '-', generation, subject, ttl_s)
    redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms() + away_ms), absent)
  end
end
return (#ARGV - 8) / 7

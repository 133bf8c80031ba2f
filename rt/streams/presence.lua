-- Library of the scripts that know who is in a room. Comes after streams/stream.lua.
--
-- `presence` is a hash: `s:<session>` → "<process> <generation> <subject>", and `n:<subject>` → twice the number of its sessions, and
-- one more where `presence.joined` told of it. A session whose connection has ended stays in it for a while, with "-" for the process: it
-- is away. Only who has no session in it joins, and only whose last session is taken out leaves, so that a restart is told to nobody.

local function room_keys(tenant, room)
  local base = 'rt:' .. tenant .. ':{' .. room .. '}:'
  return base .. 'log', base .. 'meta', base .. 'presence'
end

local function presence_tell(tenant, room, kind, subject, word, keep)
  local log, meta = room_keys(tenant, room)
  local event = '{"type":"presence.' .. kind .. '","stream":"' .. room .. '","ts":' .. string.format('%.0f', now_ms())
  stream_add(stream_open(log, meta, word), { event .. ',"data":{"subject":' .. cjson.encode(subject) .. '}}' }, keep)
end

-- process, generation and subject of a session, or nil.
local function presence_of(presence, session)
  return string.match(redis.call('HGET', presence, 's:' .. session) or '', '^(%S+) (%d+) (.*)$')
end

local function presence_put(presence, session, process, generation, subject, ttl_s)
  redis.call('HSET', presence, 's:' .. session, process .. ' ' .. generation .. ' ' .. subject)
  redis.call('EXPIRE', presence, ttl_s)
end

-- Counts a session that was put in and was not there. `keep` = { length, log_ttl_s, meta_ttl_s, sessions up to which its subject is
-- told of }: each is told to everybody there, and of many who come together that would be their square. The hash has a field for each
-- session, and one for each subject.
local function presence_join(tenant, room, subject, word, keep)
  local _, _, presence = room_keys(tenant, room)
  if redis.call('HINCRBY', presence, 'n:' .. subject, 2) > 2 or redis.call('HLEN', presence) > 2 * tonumber(keep[4]) then return end
  redis.call('HINCRBY', presence, 'n:' .. subject, 1)
  presence_tell(tenant, room, 'joined', subject, word, keep)
end

-- Takes a session out; whether it was its subject's last. Whose coming was told, its going is, however many are there by then.
local function presence_leave(tenant, room, session, subject, word, keep)
  local _, _, presence = room_keys(tenant, room)
  redis.call('HDEL', presence, 's:' .. session)
  local count = redis.call('HINCRBY', presence, 'n:' .. subject, -2)
  if count > 1 then return false end
  redis.call('HDEL', presence, 'n:' .. subject)
  if count == 1 then presence_tell(tenant, room, 'left', subject, word, keep) end
  return true
end

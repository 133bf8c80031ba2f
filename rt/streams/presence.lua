-- Library of the scripts that know who is in a room. Comes after streams/stream.lua.
--
-- `presence` is a hash: `s:<session>` → "<process> <generation> <subject>", and `n:<subject>` → how many sessions that are. A session
-- whose connection has ended stays in it for a while, with "-" for the process: it is away. Only who has no session in it joins, and
-- only whose last session is taken out leaves, so that a restart is told to nobody.

local function room_keys(tenant, room)
  local base = 'rt:' .. tenant .. ':{' .. room .. '}:'
  return base .. 'log', base .. 'meta', base .. 'presence'
end

-- Each is told to everybody there: of many who come together that would be their square. `keep` = { length, log_ttl_s, meta_ttl_s,
-- sessions up to which it is told }. The hash has a field for each session, and one for each subject.
local function presence_tell(tenant, room, kind, subject, word, keep)
  local log, meta, presence = room_keys(tenant, room)
  if redis.call('HLEN', presence) > 2 * tonumber(keep[4]) then return end
  local stream = stream_open(log, meta, word)
  local event = '{"type":"presence.' .. kind .. '","stream":"' .. room .. '","ts":' .. string.format('%.0f', now_ms())
  stream_add(stream, { event .. ',"data":{"subject":' .. cjson.encode(subject) .. '}}' }, keep)
end

-- process, generation and subject of a session, or nil.
local function presence_of(presence, session)
  return string.match(redis.call('HGET', presence, 's:' .. session) or '', '^(%S+) (%d+) (.*)$')
end

local function presence_put(presence, session, process, generation, subject, ttl_s)
  redis.call('HSET', presence, 's:' .. session, process .. ' ' .. generation .. ' ' .. subject)
  redis.call('EXPIRE', presence, ttl_s)
end

-- Takes a session out; whether it was its subject's last.
local function presence_drop(presence, session, subject)
  redis.call('HDEL', presence, 's:' .. session)
  if redis.call('HINCRBY', presence, 'n:' .. subject, -1) > 0 then return false end
  redis.call('HDEL', presence, 'n:' .. subject)
  return true
end

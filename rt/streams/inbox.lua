-- Library of the scripts that know a subject's notifications. Comes after streams/stream.lua. They are events of its stream;
-- beside it stand those not marked as read (a sorted set of seqs), and the levels that it does not want (a string of words).
-- The mark itself, `read`, is a field of the stream's meta: it means nothing without the numbers that the meta counts.

-- How many notifications that can still be read are not marked as read.
local function inbox_unread(log, unread)
  local head = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
  if not head[1] then
    redis.call('DEL', unread)
    return 0
  end
  redis.call('ZREMRANGEBYSCORE', unread, '-inf', '(' .. string.gsub(head[1][1], '%-0$', ''))
  return redis.call('ZCARD', unread)
end

-- Appends a notification, unless its level is muted; returns its epoch and seq, or nil. A preference lives on while it is asked for.
local function inbox_add(log, meta, unread, muted, word, event, level, keep, muted_ttl)
  local levels = redis.call('GET', muted)
  if levels then
    redis.call('EXPIRE', muted, muted_ttl)
    if string.find(' ' .. levels .. ' ', ' ' .. level .. ' ', 1, true) then return nil end
  end
  local stream = stream_open(log, meta, word)
  local _, last = stream_add(stream, { event }, keep)
  redis.call('ZADD', unread, last, last)
  expire(unread, keep[3])
  inbox_unread(log, unread)  -- what was trimmed goes: no longer than the log
  return stream.epoch, last
end

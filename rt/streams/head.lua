-- Library of the scripts that read streams: what one looks like at one instant, { epoch, top, first, kept, past, current }; epoch
-- false when it does not exist.
-- `kept` is the first seq that trimming left, `first` the first that can be read now: the log may have vanished under
-- its meta (expired, deleted, evicted), and the two then differ. `current`: 1 when the epoch is of this incarnation of Redis
-- (see stream.lua), or nothing will be written under another one any more, because the stream is that of a job that ended.
local function stream_head(log, meta)
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'first', 'past', 'inc', 'status')
  if not m[1] then return { false, 0, 1, 1, '', 0 } end
  local top, inc = tonumber(m[2]), redis.call('GET', 'rt:incarnation')
  local head = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
  local first = head[1] and tonumber((string.gsub(head[1][1], '%-0$', ''))) or top + 1
  local current = not inc or m[5] == inc or m[6] == 'completed' or m[6] == 'failed' or m[6] == 'cancelled'
  return { m[1], top, first, tonumber(m[3]), m[4] or '', current and 1 or 0 }
end

-- Library of the scripts that read streams: what one looks like at one instant, { epoch, top, first, kept, past, current, before };
-- epoch false when it does not exist.
-- `kept` is the first seq that trimming left, `first` the first that can be read now: the log may have vanished under
-- its meta (expired, deleted, evicted), and the two then differ. `current`: 1 when the epoch is of this incarnation of Redis
-- (see stream.lua), or nothing will be written under another one any more, because the stream is that of a job that ended.
-- `before`: what came before `first` of a job's stream, { status, attempt, result, error, text or false }, for a reader that
-- has everything up to `after` and so misses some of it; otherwise false. Where `after` is nil nobody asks.
local function stream_head(log, meta, text, after)
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'first', 'past', 'inc', 'status', 'attempt', 'result', 'error', 'text_seq')
  if not m[1] then return { false, 0, 1, 1, '', 0, false } end
  local top, inc = tonumber(m[2]), redis.call('GET', 'rt:incarnation')
  local head = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)
  local first = head[1] and tonumber((string.gsub(head[1][1], '%-0$', ''))) or top + 1
  local current = not inc or m[5] == inc or m[6] == 'completed' or m[6] == 'failed' or m[6] == 'cancelled'
  local before = false
  if after and first > after + 1 and m[6] then
    local said = tonumber(m[10] or 0) == first - 1 and (redis.call('GET', text) or '')
    before = { m[6], m[7], m[8], m[9], said }
  end
  return { m[1], top, first, tonumber(m[3]), m[4] or '', current and 1 or 0, before }
end

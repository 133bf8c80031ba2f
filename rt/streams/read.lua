-- A page of a stream and its head, read at one instant.
-- KEYS: log, meta. ARGV: after (seq), most events, most bytes.
-- Returns { epoch, top, first, kept, past, current, event... }; epoch false when the stream does not exist, current 0 when
-- it was last written under another incarnation of Redis (see stream.lua).
-- `kept` is the first seq that trimming left, `first` the first that can be read now: the log may have vanished under
-- its meta (expired, deleted, evicted), and the two then differ.
local m = redis.call('HMGET', KEYS[2], 'epoch', 'seq', 'first', 'past', 'inc')
if not m[1] then return { false, 0, 1, 1, '', 1 } end
local top = tonumber(m[2])
local head = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local first = head[1] and tonumber((string.gsub(head[1][1], '%-0$', ''))) or top + 1
local inc = redis.call('GET', 'rt:incarnation')
local out = { m[1], top, first, tonumber(m[3]), m[4] or '', (not inc or m[5] == inc) and 1 or 0 }
local after, left, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
while left > 0 and bytes > 0 and after < top do
  local step = math.min(left, 32)
  local page = redis.call('XRANGE', KEYS[1], (after + 1) .. '-0', '+', 'COUNT', step)
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    local body = entry[2][2]
    -- At least one event, however large; after that only what fits.
    if #out > 6 and #body > bytes then return out end
    out[#out + 1] = body
    bytes = bytes - #body
    left = left - 1
    after = tonumber((string.gsub(entry[1], '%-0$', '')))
  end
end
return out

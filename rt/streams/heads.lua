-- The heads of many streams at one instant. KEYS: log, meta for each.
-- Returns for each { epoch or false, top, first, kept, past, current }, as read.lua.
local out, inc = {}, redis.call('GET', 'rt:incarnation')
for k = 1, #KEYS, 2 do
  local m = redis.call('HMGET', KEYS[k + 1], 'epoch', 'seq', 'first', 'past', 'inc')
  if m[1] then
    local head = redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', 1)
    local top = tonumber(m[2])
    local first = head[1] and tonumber((string.gsub(head[1][1], '%-0$', ''))) or top + 1
    out[#out + 1] = { m[1], top, first, tonumber(m[3]), m[4] or '', (not inc or m[5] == inc) and 1 or 0 }
  else
    out[#out + 1] = { false, 0, 1, 1, '', 1 }
  end
end
return out

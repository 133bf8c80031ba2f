-- Drops what is older than a time. KEYS: log, meta. ARGV: oldest time to keep (Redis's own, in ms), most events to look at.
-- Returns the number of events dropped. Times rise within a stream unless Redis's clock was set back, and one that another
-- hand added has none: the first that is not known to be old ends the search.
local page = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2])
local dropped, from = 0, false
for _, entry in ipairs(page) do
  local at = tonumber(entry[2][4])
  if not at or at >= tonumber(ARGV[1]) then from = entry[1] break end
  dropped = dropped + 1
end
if dropped == 0 then return 0 end
if not from then
  local last = page[#page][1]
  from = (tonumber((string.gsub(last, '%-0$', ''))) + 1) .. '-0'
end
redis.call('XTRIM', KEYS[1], 'MINID', from)
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'first', (string.gsub(from, '%-0$', ''))) end
return dropped

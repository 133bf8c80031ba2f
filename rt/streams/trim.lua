-- Drops what is older than a time. KEYS: log, meta. ARGV: oldest ts to keep (ms), most events to look at.
-- Returns the number of events dropped. Events of one stream carry rising times but for clocks of several hosts:
-- the first young one ends the search, so that nothing young is ever dropped.
local page = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2])
local dropped, from = 0, false
for _, entry in ipairs(page) do
  local ts = tonumber(string.match(entry[2][2], '"ts":(%d+)') or 0)
  if ts >= tonumber(ARGV[1]) then from = entry[1] break end
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

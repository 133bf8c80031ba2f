-- A page of a stream and its head, read at one instant.
-- KEYS: log, meta, text. ARGV: after (seq), most events, most bytes.
-- Returns { epoch, top, first, kept, past, current, before, event... }: its head (head.lua), then the events.
local after, left, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local out = stream_head(KEYS[1], KEYS[2], KEYS[3], after)
local top = out[2]
while left > 0 and bytes > 0 and after < top do
  local step = math.min(left, 32)
  local page = redis.call('XRANGE', KEYS[1], (after + 1) .. '-0', '+', 'COUNT', step)
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    local body = entry[2][2]
    -- At least one event, however large; after that only what fits.
    if #out > 7 and #body > bytes then return out end
    out[#out + 1] = body
    bytes = bytes - #body
    left = left - 1
    after = tonumber((string.gsub(entry[1], '%-0$', '')))
  end
end
return out

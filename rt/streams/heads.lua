-- The heads of many streams at one instant. KEYS: log, meta for each. Returns a head (head.lua) for each.
local out = {}
for k = 1, #KEYS, 2 do out[#out + 1] = stream_head(KEYS[k], KEYS[k + 1]) end
return out

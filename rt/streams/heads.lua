-- The heads of many streams at one instant. KEYS: log, meta, text for each. ARGV: '1' to hear also what came before their beginnings.
-- Returns a head (head.lua) for each.
local out, after = {}, ARGV[1] == '1' and 0 or nil
for k = 1, #KEYS, 3 do out[#out + 1] = stream_head(KEYS[k], KEYS[k + 1], KEYS[k + 2], after) end
return out

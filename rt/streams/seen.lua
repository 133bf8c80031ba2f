-- Notes that subjects are still there. KEYS: for each, the seen subjects of its tenant. ARGV: age_s, then the subjects.
-- Returns the number of subjects.
local now = now_us()
for i, key in ipairs(KEYS) do note_seen(key, ARGV[i + 1], ARGV[1], now + i, true) end
return #KEYS

-- What is known of a job up to the first event that its log still has. KEYS: log, meta, text.
-- Returns { seq, status or false, attempt, result, error, text or false }.
local m = redis.call('HMGET', KEYS[2], 'seq', 'status', 'attempt', 'result', 'error', 'text_seq')
local head = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local seq = head[1] and tonumber((string.gsub(head[1][1], '%-0$', ''))) - 1 or tonumber(m[1] or 0)
local text = false
if tonumber(m[6] or 0) == seq then text = redis.call('GET', KEYS[3]) or '' end
return { seq, m[2], m[3], m[4], m[5], text }

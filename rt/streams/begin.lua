-- Begins a command, or finds what became of it. KEYS: record, the session's cursors. ARGV: hash, token, hold_ms, generation ('' = no session).
-- Returns { 'new' } or { 'duplicate', answer } or { 'conflict' } or { 'busy' } or { 'taken' }.
if ARGV[4] ~= '' and redis.call('HGET', KEYS[2], 'generation') ~= ARGV[4] then return { 'taken' } end
local known = redis.call('GET', KEYS[1])
if not known then
  redis.call('SET', KEYS[1], 'p ' .. ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
  return { 'new' }
end
local state, hash, rest = string.match(known, '^(%a) (%S+) ?(.*)$')
if hash ~= ARGV[1] then return { 'conflict' } end
if state == 'd' then return { 'duplicate', rest } end
if rest == ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'new' }
end
return { 'busy' }

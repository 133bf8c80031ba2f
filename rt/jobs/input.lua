-- One input to an unfinished job, at most once for each record; its worker is told.
-- KEYS: meta, inputs, the sending session's cursors, then the records. ARGV: data (JSON), '1' when it is the last, hash of the request,
-- record_ttl_s, generation ('' = no session), least ttl_s, most inputs, most bytes of them, doorbell, job id.
-- Returns { 'ok' | 'duplicate', answer } or { 'ended', status } or { 'closed' } or { 'full' } or { 'conflict' | 'busy' | 'taken' }.
if ARGV[5] ~= '' and redis.call('HGET', KEYS[3], 'generation') ~= ARGV[5] then return { 'taken' } end
for k = 4, #KEYS do
  local known = redis.call('GET', KEYS[k])
  if known then
    local state, hash, answer = string.match(known, '^(%a) (%S+) ?(.*)$')
    if hash ~= ARGV[3] then return { 'conflict' } end
    if state == 'p' then return { 'busy' } end
    return { 'duplicate', answer }
  end
end
local m = redis.call('HMGET', KEYS[1], 'status', 'input_bytes', 'input_last')
if m[1] and ended[m[1]] then return { 'ended', m[1] } end
if m[3] then return { 'closed' } end
local bytes = tonumber(m[2] or 0) + #ARGV[1]
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[7]) or bytes > tonumber(ARGV[8]) then return { 'full' } end
local seq = redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], math.max(tonumber(ARGV[6]), redis.call('TTL', KEYS[1])))
redis.call('HSET', KEYS[1], 'input_bytes', bytes)
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'input_last', seq) end
local answer = '{"seq":' .. seq .. '}'
for k = 4, #KEYS do redis.call('SET', KEYS[k], 'd ' .. ARGV[3] .. ' ' .. answer, 'EX', ARGV[4]) end
redis.call('PUBLISH', ARGV[9], 'input ' .. ARGV[10])
return { 'ok', answer }

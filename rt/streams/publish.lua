-- One event of no attempt, at most once for each record.
-- KEYS: log, meta, the publishing session's cursors, then the records (idempotency keys) under which its answer is kept.
-- ARGV: word, event, length, log_ttl_s, meta_ttl_s, hash of the request, record_ttl_s, generation ('' = no session).
-- Returns { 'ok' | 'duplicate', answer } or { 'conflict' } or { 'busy' } or { 'taken' }.
if ARGV[8] ~= '' and redis.call('HGET', KEYS[3], 'generation') ~= ARGV[8] then return { 'taken' } end
for k = 4, #KEYS do
  local known = redis.call('GET', KEYS[k])
  if known then
    local state, hash, answer = string.match(known, '^(%a) (%S+) ?(.*)$')
    if hash ~= ARGV[6] then return { 'conflict' } end
    if state == 'p' then return { 'busy' } end
    for other = 4, #KEYS do redis.call('SET', KEYS[other], known, 'EX', ARGV[7], 'NX') end
    return { 'duplicate', answer }
  end
end
local stream = stream_open(KEYS[1], KEYS[2], ARGV[1])
local _, last = stream_add(stream, { ARGV[2] }, { ARGV[3], ARGV[4], ARGV[5] })
local answer = '{"epoch":"' .. stream.epoch .. '","seq":' .. last .. '}'
for k = 4, #KEYS do redis.call('SET', KEYS[k], 'd ' .. ARGV[6] .. ' ' .. answer, 'EX', ARGV[7]) end
return { 'ok', answer }

-- One notification to one subject, at most once for each record; nothing is appended where its level is muted.
-- KEYS: log, meta, unread, muted, then the records (idempotency keys).
-- ARGV: word, event, level, length, log_ttl_s, meta_ttl_s, muted_ttl_s, hash of the request, record_ttl_s.
-- Returns { 'ok' | 'duplicate', answer } or { 'conflict' } or { 'busy' }.
for k = 5, #KEYS do
  local known = redis.call('GET', KEYS[k])
  if known then
    local state, hash, answer = string.match(known, '^(%a) (%S+) ?(.*)$')
    if hash ~= ARGV[8] then return { 'conflict' } end
    if state == 'p' then return { 'busy' } end
    return { 'duplicate', answer }
  end
end
local epoch, seq = inbox_add(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3], { ARGV[4], ARGV[5], ARGV[6] }, ARGV[7])
local answer = epoch and '{"muted":false,"epoch":"' .. epoch .. '","seq":' .. seq .. '}' or '{"muted":true}'
for k = 5, #KEYS do redis.call('SET', KEYS[k], 'd ' .. ARGV[8] .. ' ' .. answer, 'EX', ARGV[9]) end
return { 'ok', answer }

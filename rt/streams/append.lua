-- Batches of running attempts, for any number of streams in one call.
-- KEYS: log, meta for each batch.
-- ARGV: word for a new epoch; then for each batch: fence, batch number, checkpoint ('' = none), length, log_ttl_s,
--       meta_ttl_s, number of events, the events.
-- Returns for each batch: { 'ok', epoch, first, last } or { 'fenced' } or { 'behind' } or { 'cancelled', by }.
local word, at, out = ARGV[1], 2, {}
for k = 1, #KEYS, 2 do
  local log, meta = KEYS[k], KEYS[k + 1]
  local fence, batch, checkpoint = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local keep = { ARGV[at + 3], ARGV[at + 4], ARGV[at + 5] }
  local count = tonumber(ARGV[at + 6])
  local events = {}
  for i = 1, count do events[i] = ARGV[at + 6 + i] end
  at = at + 7 + count
  local m = redis.call('HMGET', meta, 'fence', 'cancel', 'batch', 'batch_first', 'batch_last', 'epoch')
  if m[1] ~= fence then
    out[#out + 1] = { 'fenced' }
  elseif tonumber(m[3] or 0) >= batch then
    -- The answer to this batch was lost on its way: it gets the same one again.
    out[#out + 1] = { 'ok', m[6], tonumber(m[4]), tonumber(m[5]) }
  elseif m[2] then
    out[#out + 1] = { 'cancelled', m[2] }
  elseif batch > tonumber(m[3] or 0) + 1 then
    -- Redis was set back and has lost what the attempt was answered for: what it says now would follow on a hole that
    -- nobody is told of. Another attempt goes on from what is left.
    out[#out + 1] = { 'behind' }
  else
    local epoch, seq = stream_open(log, meta, word)
    local first, last = seq + 1, seq
    if count > 0 then first, last = stream_add(log, meta, epoch, seq, events, keep) end
    redis.call('HSET', meta, 'batch', batch, 'batch_first', first, 'batch_last', last)
    if checkpoint ~= '' then redis.call('HSET', meta, 'checkpoint', checkpoint, 'checkpoint_seq', last) end
    out[#out + 1] = { 'ok', epoch, first, last }
  end
end
return out

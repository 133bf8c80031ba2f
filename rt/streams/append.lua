-- Batches of running attempts, for any number of streams in one call.
-- KEYS: log, meta for each batch.
-- ARGV: word for a new epoch, length, log_ttl_s, meta_ttl_s; then for each batch: fence, batch number, checkpoint ('' = none),
--       number of events, the events.
-- Returns for each batch: { 'ok', epoch, first, last } or { 'fenced' } or { 'behind' } or { 'cancelled', by }.
local word, keep, at, out = ARGV[1], { ARGV[2], ARGV[3], ARGV[4] }, 5, {}
for k = 1, #KEYS, 2 do
  local number, checkpoint, count = tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
  local stream, fence, cancel, known = stream_look(KEYS[k], KEYS[k + 1], 'fence', 'cancel', 'batch')
  known = tonumber(known or 0)
  if fence ~= ARGV[at] then
    out[#out + 1] = { 'fenced' }
  elseif known >= number then
    -- The answer to this batch was lost on its way: it gets the same one again.
    local last = tonumber(redis.call('HGET', stream.meta, 'batch_last'))
    out[#out + 1] = { 'ok', stream.epoch, last - count + 1, last }
  elseif cancel then
    out[#out + 1] = { 'cancelled', cancel }
  elseif number > known + 1 then
    -- Redis was set back and has lost what the attempt was answered for: what it says now would follow on a hole that
    -- nobody is told of. Another attempt goes on from what is left.
    out[#out + 1] = { 'behind' }
  else
    stream_begin(stream, word)
    local first, last = stream.seq + 1, stream.seq + count
    if count > 0 then
      stream_add(stream, { unpack(ARGV, at + 4, at + 3 + count) }, keep, 'batch', ARGV[at + 1], 'batch_last', last)
    else
      redis.call('HSET', stream.meta, 'batch', number, 'batch_last', last)
    end
    if checkpoint ~= '' then redis.call('HSET', stream.meta, 'checkpoint', checkpoint, 'checkpoint_seq', last) end
    out[#out + 1] = { 'ok', stream.epoch, first, last }
  end
  at = at + 4 + count
end
return out

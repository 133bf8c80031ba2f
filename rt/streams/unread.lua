-- How many of a subject's notifications are not read, and up to where they are; moves that mark, and tells the other devices.
-- KEYS: log, meta, unread. ARGV: seq ('' only looks; the mark never goes back), the epoch under which it counts, the event that
-- tells of it up to its `data`, word, length, log_ttl_s, meta_ttl_s.
-- Returns { unread, read } or { 'moved' } when the epoch is another one by now, or the seq is above the top.
local read = tonumber(redis.call('HGET', KEYS[2], 'read') or 0)
if ARGV[1] ~= '' then
  local stream, seq = stream_open(KEYS[1], KEYS[2], ARGV[4]), tonumber(ARGV[1])
  if stream.epoch ~= ARGV[2] or seq > stream.seq then return { 'moved' } end
  if seq > read then
    read = seq
    redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', read)
    local told = '{"read":"' .. stream.epoch .. string.format(':%.0f","unread":%d}}', read, inbox_unread(KEYS[1], KEYS[3]))
    stream_add(stream, { ARGV[3] .. told }, { ARGV[5], ARGV[6], ARGV[7] }, 'read', string.format('%.0f', read))
  end
end
return { inbox_unread(KEYS[1], KEYS[3]), read }

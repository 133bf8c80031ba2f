-- Who is in a room now: sessions with a connection, of processes whose lease has not lapsed.
-- KEYS: presence, processes. Returns subject and number of sessions, for each subject.
local now, alive, count, out = now_ms(), {}, {}, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local process, _, subject = string.match(all[i + 1], '^(%S+) (%d+) (.*)$')
  if string.sub(all[i], 1, 2) == 's:' and process ~= '-' then
    if alive[process] == nil then alive[process] = tonumber(redis.call('ZSCORE', KEYS[2], process) or 0) >= now end
    if alive[process] then count[subject] = (count[subject] or 0) + 1 end
  end
end
for subject, sessions in pairs(count) do
  out[#out + 1] = subject
  out[#out + 1] = sessions
end
return out

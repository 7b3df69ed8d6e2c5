-- At the beginning of a turn, and for what died since: what is pending under any other name than the slices' and the
-- reader's goes to the reader, in order. It was left from when the group had no order.
-- KEYS: stream reader attempts lost
-- ARGV: group turn idle_ms count
-- Returns 'gathered', how many there were, and the ids that were trimmed.
local stream, reader, attempts, lost_key = unpack(KEYS)
local group, idle, count = ARGV[1], ARGV[3], tonumber(ARGV[4])
if redis.call('GET', reader) ~= ARGV[2] then
  return {'standby'}
end
local moved, lost = 0, {}
for _, consumer in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
  local name = consumer[1]
  if name ~= 'sandbar-reader' and not string.find(name, '^sandbar%-slice%-%d+$') and count > 0 then
    local left = redis.call('XPENDING', stream, group, 'IDLE', idle, '-', '+', count, name)
    for _, entry in ipairs(left) do
      local id = entry[1]
      if #redis.call('XRANGE', stream, id, id) > 0 then
        redis.call('XCLAIM', stream, group, 'sandbar-reader', idle, id, 'JUSTID')
      else
        redis.call('XACK', stream, group, id)
        redis.call('HDEL', attempts, id)
        lost[#lost + 1] = id
      end
      moved, count = moved + 1, count - 1
    end
  end
end
if #lost > 0 then
  redis.call('INCRBY', lost_key, #lost)
end
return {'gathered', moved, lost}

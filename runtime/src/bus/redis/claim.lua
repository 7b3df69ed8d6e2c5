-- Takes over what other consumers have left pending for longer than a lease. XAUTOCLAIM would not do: it drops what
-- was trimmed from the stream out of anybody's hand, however short it has been there.
-- KEYS: stream attempts lost
-- ARGV: group consumer idle_ms cursor count given_back
-- Returns the next cursor, ids that were trimmed, then for each entry: id, fields, attempts, 1 if it was given back.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local found = redis.call('XPENDING', stream, group, 'IDLE', ARGV[3], ARGV[4], '+', ARGV[5])
local claimed, lost = {}, {}
local cursor = '-'
for _, entry in ipairs(found) do
  local id = entry[1]
  cursor = '(' .. id
  if entry[2] ~= consumer then
    local stored = redis.call('XRANGE', stream, id, id)[1]
    if stored then
      redis.call('XCLAIM', stream, group, consumer, ARGV[3], id, 'JUSTID')
      claimed[#claimed + 1] = {id, stored[2], redis.call('HGET', KEYS[2], id) or '', entry[2] == ARGV[6] and 1 or 0}
    else
      redis.call('XACK', stream, group, id)
      redis.call('HDEL', KEYS[2], id)
      lost[#lost + 1] = id
    end
  end
end
if #lost > 0 then
  redis.call('INCRBY', KEYS[3], #lost)
end
if #found < tonumber(ARGV[5]) then
  cursor = '-'
end
table.insert(claimed, 1, lost)
table.insert(claimed, 1, cursor)
return claimed

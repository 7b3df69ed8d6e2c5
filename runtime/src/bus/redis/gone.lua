-- Acknowledges entries that were trimmed while they waited: nobody can handle them any more.
-- KEYS: stream attempts lost
-- ARGV: group consumer, then ids. `consumer`: under whose name they wait
-- Returns those that it let go.
local gone = {}
for n = 3, #ARGV do
  local id = ARGV[n]
  local found = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if found and found[2] == ARGV[2] then
    redis.call('XACK', KEYS[1], ARGV[1], id)
    redis.call('HDEL', KEYS[2], id)
    gone[#gone + 1] = id
  end
end
if #gone > 0 then
  redis.call('INCRBY', KEYS[3], #gone)
end
return gone

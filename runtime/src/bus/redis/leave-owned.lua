-- Leaves a group with order on one topic: slices and turn are free at once, and nothing of them is suspected.
-- KEYS: stream retry due hosts reader slices alive wake
-- ARGV: group consumer slices, then id slice token for each in hand from the retry store
local stream, retry, due, hosts, reader, slices, alive, wake = unpack(KEYS)
local group, consumer = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', hosts, '')
local function mine(value)
  return value and string.sub(value, 1, #consumer + 1) == consumer .. ':'
end
for at = 4, #ARGV, 3 do
  local id, slice = ARGV[at], ARGV[at + 1]
  if mine(redis.call('HGET', slices, slice)) and redis.call('HGET', retry, id .. ':owner') == ARGV[at + 2] then
    redis.call('HDEL', retry, id .. ':owner')
    redis.call('ZADD', due .. '.' .. slice, now, id)
  end
end
for slice = 0, tonumber(ARGV[3]) - 1 do
  if mine(redis.call('HGET', slices, slice)) then
    redis.call('HDEL', slices, slice, slice .. ':wanted', slice .. ':out')
  end
end
if mine(redis.call('GET', reader)) then
  redis.call('DEL', reader)
end
redis.call('ZREM', alive, consumer)
redis.call('HINCRBY', slices, 'version', 1)
redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
local left = redis.pcall('XPENDING', stream, group, '-', '+', 1, consumer)
if left.err or #left == 0 then
  redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer)
  redis.call('ZREM', hosts, consumer)
else
  redis.call('ZADD', hosts, 0, consumer)
end
return 1

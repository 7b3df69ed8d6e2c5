-- Gives back what one consumer has in hand on one topic, and removes the consumer if nothing is left to its name.
-- KEYS: stream retry due hosts
-- ARGV: group consumer given_back, then id token for each in hand
local stream, retry, due, hosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', hosts, '')
for n = 4, #ARGV, 2 do
  local id = ARGV[n]
  if redis.call('HGET', retry, id .. ':owner') == ARGV[n + 1] then
    redis.call('HDEL', retry, id .. ':owner')
    redis.call('ZADD', due, now, id)
  end
end
-- To a name that stands for what was given back, idle since 1970: the others need not wait for the lease, and see
-- that nobody died. What was trimmed stays as it is: XCLAIM would drop it uncounted.
local cursor, kept = '-', false
local left = redis.pcall('XPENDING', stream, group, cursor, '+', 100, consumer)
while not left.err and #left > 0 do
  for _, entry in ipairs(left) do
    if #redis.call('XRANGE', stream, entry[1], entry[1]) > 0 then
      redis.call('XCLAIM', stream, group, ARGV[3], 0, entry[1], 'TIME', 0, 'JUSTID')
    else
      kept = true
    end
    cursor = '(' .. entry[1]
  end
  left = redis.pcall('XPENDING', stream, group, cursor, '+', 100, consumer)
end
-- Long ago: whoever finds it with nothing pending removes it.
redis.call('ZADD', hosts, 0, consumer)
if not kept then
  redis.pcall('XGROUP', 'DELCONSUMER', stream, group, consumer)
  redis.call('ZREM', hosts, consumer)
end
return 1

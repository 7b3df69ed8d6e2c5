-- Moves one delivery to the retry store, due after a delay by the server's clock.
-- KEYS: stream retry due attempts
-- ARGV: group consumer id token delay_ms record lane
local where = held()
if not where then
  -- Sent before, and the answer lost on the way: it waits as it was told to. Were it said to be lost, the events behind
  -- it would not wait for it.
  if redis.pcall('HGET', retry, id) == ARGV[6] and not redis.call('HGET', retry, id .. ':owner') then
    return {'done'}
  end
  return {'lost'}
end
local wrong = misused_stores()
if wrong then
  return wrong
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', retry, id, ARGV[6])
redis.call('ZADD', due, string.format('%.0f', now + tonumber(ARGV[5])), id)
redis.call('HDEL', retry, id .. ':owner', id .. ':lane')
if ARGV[7] ~= '' then
  redis.call('HSET', retry, id .. ':lane', ARGV[7])
end
redis.call('HDEL', attempts, id)
if where == 'pending' then
  redis.call('XACK', stream, group, id)
end
return {'done'}

-- Moves one delivery that was trimmed from its stream to the retry store, still in the same hand.
-- KEYS: stream retry due attempts
-- ARGV: group consumer id token lease_ms record lane
local where = held()
if where ~= 'pending' then
  return {where and 'done' or 'lost'}
end
local wrong = misused_stores()
if wrong then
  return wrong
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', retry, id, ARGV[6], id .. ':owner', token)
if ARGV[7] ~= '' then
  redis.call('HSET', retry, id .. ':lane', ARGV[7])
end
redis.call('ZADD', due, string.format('%.0f', now + tonumber(ARGV[5])), id)
redis.call('XACK', stream, group, id)
return {'done'}

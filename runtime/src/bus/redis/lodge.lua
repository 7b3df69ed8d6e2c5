-- Puts entries of the retry store that lie in no slice into theirs: requeued dead letters, and what was left from when
-- the group had no order.
-- KEYS: reader retry due wake
-- ARGV: turn, then for each: id slice lane
local reader, retry, due, wake = unpack(KEYS)
if redis.call('GET', reader) ~= ARGV[1] then
  return {'standby'}
end
for at = 2, #ARGV, 3 do
  local id, slice, lane = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local score = redis.call('ZSCORE', due, id)
  local stored = redis.call('HMGET', retry, id, id .. ':owner')
  if score and stored[1] then
    if stored[2] then
      -- Whoever had it runs without order, and loses it.
      redis.call('HSET', retry, id .. ':owner', 'void')
      score = 0
    end
    if lane ~= '' then
      redis.call('HSET', retry, id .. ':lane', lane)
    end
    redis.call('ZADD', due .. '.' .. slice, score, id)
  end
  redis.call('ZREM', due, id)
end
redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
return {'lodged'}

-- Records that a call is about to start.
-- KEYS: stream retry due attempts
-- ARGV: group consumer id token attempts
if not held() then
  return 0
end
local wrong = misused_stores()
if wrong then
  return wrong
end
-- A removal that removes nothing: Redis lets a script that has written go on when it is out of memory, and a count of
-- attempts must not stop the work that frees it.
redis.call('HDEL', attempts, '')
redis.call('HSET', attempts, id, ARGV[5])
return 1

-- Stores one delivery as a dead letter.
-- KEYS: stream retry due attempts dead
-- ARGV: group consumer id token name value ...
local where = held()
if not where then
  return {'lost'}
end
local wrong = misused_stores() or misused(KEYS[5], 'stream')
if wrong then
  return wrong
end
redis.call('XADD', KEYS[5], '*', unpack(ARGV, 5))
release(where)
return {'done'}

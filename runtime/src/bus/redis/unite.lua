-- A group that had order and has none now: what lies in slices of the retry store comes back to the one store, once no
-- consumer with order is alive. What is pending in slices is claimed by its idle time.
-- KEYS: retry due slices alive placed wake reader
-- ARGV: slices
local retry, due, slices, alive = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('EXISTS', slices) == 0 then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', alive, string.format('%.0f', now), '+inf') > 0 then
  return 0
end
for slice = 0, tonumber(ARGV[1]) - 1 do
  local store = due .. '.' .. slice
  if redis.call('EXISTS', store) == 1 then
    redis.call('ZUNIONSTORE', due, 2, due, store, 'AGGREGATE', 'MAX')
    redis.call('DEL', store)
  end
end
-- Two counters stay for ever, so that no owner's mark is ever used twice.
local version = redis.call('HINCRBY', slices, 'version', 1)
local turns = redis.call('HGET', slices, 'turns') or 0
redis.call('DEL', slices, alive, KEYS[5], KEYS[6], KEYS[7])
redis.call('HSET', slices, 'version', version, 'turns', turns)
return 1

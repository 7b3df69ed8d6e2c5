-- Takes what is due from the retry store in hand.
-- KEYS: retry due attempts
-- ARGV: consumer token lease_ms count
-- Returns milliseconds until the next is due (-1: none), then for each: id, record, its former owner, attempts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[4])
if #ids > 0 then
  -- See begin.lua: leases are given out even when Redis is out of memory.
  redis.call('HDEL', KEYS[1], '')
end
for _, id in ipairs(ids) do
  local found = redis.call('HMGET', KEYS[1], id, id .. ':owner')
  if not found[1] then
    redis.call('ZREM', KEYS[2], id)
  else
    local owner = found[2] or ''
    -- What this consumer has itself keeps its token: a call may be running that is late to renew.
    if string.sub(owner, 1, #ARGV[1] + 1) ~= ARGV[1] .. ':' then
      redis.call('HSET', KEYS[1], id .. ':owner', ARGV[2])
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + tonumber(ARGV[3])), id)
    taken[#taken + 1] = {id, found[1], owner, redis.call('HGET', KEYS[3], id) or ''}
  end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
table.insert(taken, 1, first[2] and math.max(0, tonumber(first[2]) - now) or -1)
return taken

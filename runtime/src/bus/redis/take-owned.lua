-- Takes what is due from the retry store in hand: of this consumer's slices.
-- KEYS: retry due attempts slices
-- ARGV: consumer token lease_ms count version, then the slices
-- Returns milliseconds until the next is due (-1: none), then for each: id, record, its former owner, attempts, slice.
local retry, due, attempts = KEYS[1], KEYS[2], KEYS[3]
if (redis.call('HGET', KEYS[4], 'version') or '0') ~= ARGV[5] then
  return {0}
end
local consumer, room = ARGV[1], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken, next_due = {}, -1
for n = 6, #ARGV do
  local store = due .. '.' .. ARGV[n]
  local ids = room > 0 and redis.call('ZRANGEBYSCORE', store, '-inf', now, 'LIMIT', 0, room) or {}
  if #ids > 0 then
    -- See begin.lua: leases are given out even when Redis is out of memory.
    redis.call('HDEL', retry, '')
  end
  for _, id in ipairs(ids) do
    local found = redis.call('HMGET', retry, id, id .. ':owner')
    if not found[1] then
      redis.call('ZREM', store, id)
    else
      local owner = found[2] or ''
      -- What this consumer has itself keeps its token: a call may be running that is late to renew.
      if string.sub(owner, 1, #consumer + 1) ~= consumer .. ':' then
        redis.call('HSET', retry, id .. ':owner', ARGV[2])
      end
      redis.call('ZADD', store, string.format('%.0f', now + tonumber(ARGV[3])), id)
      taken[#taken + 1] = {id, found[1], owner, redis.call('HGET', attempts, id) or '', tonumber(ARGV[n])}
      room = room - 1
    end
  end
  local first = redis.call('ZRANGE', store, 0, 0, 'WITHSCORES')
  if first[2] then
    local wait = math.max(0, tonumber(first[2]) - now)
    next_due = next_due < 0 and wait or math.min(next_due, wait)
  end
end
table.insert(taken, 1, next_due)
return taken

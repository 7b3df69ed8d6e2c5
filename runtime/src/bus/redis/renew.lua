-- Renews what is in hand on one topic, shows a sign of life, and (mark.lua) notes where the group would have to start
-- again.
-- KEYS: stream retry due hosts mark lost
-- ARGV: group consumer lease_ms pending retries life_ms, then the ids pending, then id token for each retry, then
--       1 if the mark is to be noted
-- Returns lost ids, trimmed ids, the group's last-delivered-id (nothing if the mark is not noted), how many unread messages
-- are found to be gone, 1 if there may be more of those, the first id that is kept, and how many groups there are.
local stream, retry, due = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local pending, retries = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- See begin.lua: signs of life pass even when Redis is out of memory.
redis.call('ZREM', KEYS[4], '')
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[6])), consumer)

local lost, trimmed, kept = {}, {}, {}
for n = 7, 6 + pending do
  local id = ARGV[n]
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err or not found[1] or found[1][2] ~= consumer then
    lost[#lost + 1] = id
  elseif #redis.call('XRANGE', stream, id, id) == 0 then
    trimmed[#trimmed + 1] = id
  else
    kept[#kept + 1] = id
  end
end
if #kept > 0 then
  kept[#kept + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(kept))
end
for n = 7 + pending, 5 + pending + 2 * retries, 2 do
  local id, token = ARGV[n], ARGV[n + 1]
  if redis.call('HGET', retry, id .. ':owner') == token then
    redis.call('ZADD', due, string.format('%.0f', now + lease), id)
  else
    lost[#lost + 1] = id
  end
end

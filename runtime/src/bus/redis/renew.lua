-- Renews what is in hand on one topic, shows a sign of life, and notes where the group would have to start again.
-- KEYS: stream retry due hosts mark reader
-- ARGV: group consumer lease_ms exclusive pending retries life_ms, then the ids pending, then id token for each retry
-- Returns lost ids, trimmed ids, the group's last-delivered-id.
local stream, retry, due = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local pending, retries = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- See begin.lua: signs of life pass even when Redis is out of memory.
redis.call('ZREM', KEYS[4], '')
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[7])), consumer)
if ARGV[4] == '1' and redis.call('GET', KEYS[6]) == consumer then
  redis.call('PEXPIRE', KEYS[6], lease)
end

local lost, trimmed, kept = {}, {}, {}
for n = 8, 7 + pending do
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
for n = 8 + pending, 6 + pending + 2 * retries, 2 do
  local id, token = ARGV[n], ARGV[n + 1]
  if redis.call('HGET', retry, id .. ':owner') == token then
    redis.call('ZADD', due, string.format('%.0f', now + lease), id)
  else
    lost[#lost + 1] = id
  end
end

-- 'p' and the oldest pending id: start before it. 'd' and the last delivered id: start after it.
local delivered = ''
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if not groups.err then
  for _, info in ipairs(groups) do
    local named = {}
    for field = 1, #info, 2 do
      named[info[field]] = info[field + 1]
    end
    if named['name'] == group then
      delivered = named['last-delivered-id']
      local summary = redis.call('XPENDING', stream, group)
      redis.call('SET', KEYS[5], summary[1] > 0 and 'p' .. summary[2] or 'd' .. delivered)
    end
  end
end
return {lost, trimmed, delivered}

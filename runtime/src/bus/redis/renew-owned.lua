-- Renews what is in hand on one topic of a group with order, shows signs of life, and (mark.lua) notes where the group
-- would have to start again.
-- KEYS: stream retry due hosts mark lost reader slices alive
-- ARGV: group consumer lease_ms pending retries life_ms alive, then id slice owner for each pending, then id slice owner
--       token for each retry, then 1 if the mark is to be noted. `alive`: 1 if the consumer is to be reckoned with
-- Returns what renew.lua does.
local stream, retry, due = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local pending, retries = tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- See begin.lua: signs of life pass even when Redis is out of memory.
redis.call('ZREM', KEYS[4], '')
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[6])), consumer)
if ARGV[7] == '1' then
  -- Who has been declared dead comes back by fetching (look.lua).
  redis.call('ZADD', KEYS[9], 'XX', string.format('%.0f', now + lease), consumer)
  local reader = redis.call('GET', KEYS[7])
  if reader and string.sub(reader, 1, #consumer + 1) == consumer .. ':' then
    redis.call('PEXPIRE', KEYS[7], lease)
  end
end

local owners = {}
local function owns(slice, owner)
  if owners[slice] == nil then
    owners[slice] = redis.call('HGET', KEYS[8], slice)
  end
  return owners[slice] == owner
end

local lost, trimmed, kept = {}, {}, {}
local at = 8
for _ = 1, pending do
  local id, slice, owner = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local name = 'sandbar-slice-' .. slice
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if not owns(slice, owner) or found.err or not found[1] or found[1][2] ~= name then
    lost[#lost + 1] = id
  elseif #redis.call('XRANGE', stream, id, id) == 0 then
    trimmed[#trimmed + 1] = id
  else
    kept[name] = kept[name] or {}
    table.insert(kept[name], id)
  end
end
-- For hosts that take the group for one without order: they claim by idle time.
for name, ids in pairs(kept) do
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, name, 0, unpack(ids))
end
for _ = 1, retries do
  local id, slice, owner, token = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if owns(slice, owner) and redis.call('HGET', retry, id .. ':owner') == token then
    redis.call('ZADD', due .. '.' .. slice, string.format('%.0f', now + lease), id)
  else
    lost[#lost + 1] = id
  end
end

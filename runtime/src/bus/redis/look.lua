-- Groups with order: shows a sign of life, keeps or takes the turn to read, and lists what this consumer's slices hold.
-- KEYS: stream reader slices alive placed wake attempts
-- ARGV: group consumer lease_ms slices version count, then for each slice that is listed: its number, the last id
--       taken from it ('-': none), how often it was known to have been set back
-- Returns the turn if it is this consumer's, the last id of the wakes, the version, what it owns if the version is
-- another than it knows (number, generation, 1 if wanted), then for each slice that has moved: its number, the last id
-- listed, how often it was set back, 1 if there is more, and entries: id, fields (or nil if it was trimmed), how it is
-- to come, attempts.
local stream, reader, slices, alive, placed, wake, attempts = unpack(KEYS)
local group, consumer, lease, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- See begin.lua: signs of life pass even when Redis is out of memory.
redis.call('ZREM', alive, '')
if redis.call('ZADD', alive, string.format('%.0f', now + lease), consumer) == 1 then
  -- Whoever reads divides anew.
  redis.call('HINCRBY', slices, 'version', 1)
  redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
end
local turn = redis.call('GET', reader)
if not turn then
  turn = consumer .. ':' .. string.format('%.0f', redis.call('HINCRBY', slices, 'turns', 1))
  redis.call('SET', reader, turn, 'PX', lease)
elseif string.sub(turn, 1, #consumer + 1) == consumer .. ':' then
  redis.call('PEXPIRE', reader, lease)
else
  turn = ''
end
local last = redis.call('XREVRANGE', wake, '+', '-', 'COUNT', 1)[1]
local version = redis.call('HGET', slices, 'version') or '0'
local found = {turn, last and last[1] or '0-0', version, false}
if version ~= ARGV[5] then
  local fields = {}
  for slice = 0, most - 1 do
    fields[#fields + 1] = slice
    fields[#fields + 1] = slice .. ':wanted'
  end
  local values = redis.call('HMGET', slices, unpack(fields))
  local owned = {}
  for slice = 0, most - 1 do
    local owner, wanted = values[2 * slice + 1], values[2 * slice + 2]
    if owner and string.sub(owner, 1, #consumer + 1) == consumer .. ':' then
      owned[#owned + 1] = {slice, string.sub(owner, #consumer + 2), wanted and 1 or 0}
    end
  end
  found[4] = owned
  return found
end

-- The version is the same, so the slices asked for are this consumer's.
local room = tonumber(ARGV[6])
local fields = {}
for at = 7, #ARGV, 3 do
  fields[#fields + 1] = ARGV[at]
  fields[#fields + 1] = ARGV[at] .. ':back'
end
local moved = #fields > 0 and room > 0 and redis.call('HMGET', placed, unpack(fields)) or {}
for n = 1, #moved, 2 do
  local at = 7 + 3 * (n - 1) / 2
  local slice, cursor, back = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local upto = moved[n]
  if moved[n + 1] and moved[n + 1] ~= back then
    cursor, back = '-', moved[n + 1]
  end
  if upto and room > 0 and (cursor == '-' or later(upto, cursor)) then
    local marks = redis.call('HMGET', slices, slice .. ':suspect', slice .. ':out')
    local from = cursor == '-' and '-' or '(' .. cursor
    local pending = redis.call('XPENDING', stream, group, from, '+', room, 'sandbar-slice-' .. slice)
    local listed = {tonumber(slice), upto, back, 0}
    for _, entry in ipairs(pending) do
      local id = entry[1]
      local stored = redis.call('XRANGE', stream, id, id)[1]
      local begun = redis.call('HGET', attempts, id)
      -- What a dead owner may have had in hand, what was in hand and not settled, what has never been.
      local how = 'new'
      if begun or (marks[1] and not later(id, marks[1])) then
        how = 'inherited'
      elseif marks[2] and not later(id, marks[2]) then
        how = 'dropped'
      end
      listed[#listed + 1] = {id, stored and stored[2] or false, how, begun or ''}
    end
    if #pending == room then
      listed[2], listed[4] = pending[#pending][1], 1
    end
    room = room - #pending
    if #pending > 0 then
      local out = pending[#pending][1]
      if not marks[2] or later(out, marks[2]) then
        redis.call('HSET', slices, slice .. ':out', out)
      end
    end
    found[#found + 1] = listed
  end
end
return found

-- Hands what the reader has read to the slices, in order: each is pending under its slice's name from then on, and
-- whoever has the slice finds it there. Of slices that are the reader's own and of which it has taken everything, it
-- may keep what it has just read.
-- KEYS: stream reader slices placed wake lost
-- ARGV: group turn consumer version wake count, then id and slice of each, then for each slice of which something is
--       to be kept: its number, the last id taken from it, the last to be kept
-- Returns 'placed', the version, the last wake if there was none but this, then two lists: the slices of which it may
-- keep what it asked for, the ids that are gone.
local stream, reader, slices, placed, wake, lost_key = unpack(KEYS)
local group, turn, consumer, count = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[6])
if redis.call('GET', reader) ~= turn then
  return {'standby'}
end
local version = redis.call('HGET', slices, 'version') or '0'

-- Somebody who takes the group for one without order may have claimed some.
local still = {}
for _, entry in ipairs(redis.call('XPENDING', stream, group, ARGV[7], ARGV[5 + 2 * count], count, 'sandbar-reader')) do
  still[entry[1]] = true
end
local order, ids, lost = {}, {}, {}
for n = 0, count - 1 do
  local id, slice = ARGV[7 + 2 * n], ARGV[8 + 2 * n]
  if not still[id] then
    lost[#lost + 1] = id
  else
    if not ids[slice] then
      ids[slice] = {}
      order[#order + 1] = slice
    end
    table.insert(ids[slice], id)
  end
end
local before = {}
if #order > 0 then
  local values = redis.call('HMGET', placed, unpack(order))
  for n, slice in ipairs(order) do
    before[slice] = values[n] or '-'
  end
end
local gone = 0
for _, slice in ipairs(order) do
  local all = ids[slice]
  local claim = {'XCLAIM', stream, group, 'sandbar-slice-' .. slice, 0}
  for _, id in ipairs(all) do
    claim[#claim + 1] = id
  end
  claim[#claim + 1] = 'JUSTID'
  local claimed = {}
  for _, id in ipairs(redis.call(unpack(claim))) do
    claimed[id] = true
  end
  -- From 7.0 on the server lets go of what was trimmed in between.
  for _, id in ipairs(all) do
    if not claimed[id] then
      lost[#lost + 1] = id
      gone = gone + 1
    end
  end
  if next(claimed) then
    if before[slice] ~= '-' and not later(all[1], before[slice]) then
      -- Older than what was placed before: whoever has the slice looks through it once more.
      redis.call('HINCRBY', placed, slice .. ':back', 1)
    end
    if before[slice] == '-' or later(all[#all], before[slice]) then
      redis.call('HSET', placed, slice, all[#all])
    end
  end
end
if gone > 0 then
  redis.call('INCRBY', lost_key, gone)
end

local kept = {}
if version == ARGV[4] then
  for at = 7 + 2 * count, #ARGV, 3 do
    local slice, taken, upto = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    if before[slice] == taken then
      redis.call('HSET', slices, slice .. ':out', upto)
      kept[#kept + 1] = tonumber(slice)
    end
  end
end

local last = redis.call('XREVRANGE', wake, '+', '-', 'COUNT', 1)[1]
last = last and last[1] or '0-0'
local seen = last == ARGV[5]
if #order > 0 then
  for _, owner in ipairs(redis.call('HMGET', slices, unpack(order))) do
    if not owner or string.sub(owner, 1, #consumer + 1) ~= consumer .. ':' then
      last = redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
      break
    end
  end
end
return {'placed', version, seen and last or '', kept, lost}

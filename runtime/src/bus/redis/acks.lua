-- Acknowledges deliveries of a group with order that have no effects, each only if it is still in this consumer's hand.
-- KEYS: stream retry due attempts slices
-- ARGV: group, then for each: id slice owner token
-- Returns 1 for each that is acknowledged, else 0.
local stream, retry, due, attempts, slices = unpack(KEYS)
local group = ARGV[1]
local owners, answers = {}, {}
-- This runs once for every event there is: each call that can be spared is.
local recorded = redis.call('EXISTS', attempts) == 1
local function forget(id)
  if recorded then
    redis.call('HDEL', attempts, id)
  end
end
for at = 2, #ARGV, 4 do
  local id, slice, owner = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if owners[slice] == nil then
    owners[slice] = redis.call('HGET', slices, slice)
  end
  local done = 0
  if owners[slice] == owner then
    local found = redis.pcall('XPENDING', stream, group, id, id, 1)
    if not found.err and found[1] then
      if found[1][2] == 'sandbar-slice-' .. slice then
        forget(id)
        done = redis.call('XACK', stream, group, id)
      end
    else
      local stored = redis.call('HMGET', retry, id, id .. ':owner')
      if stored[2] == ARGV[at + 3] then
        forget(id)
        redis.call('ZREM', due .. '.' .. slice, id)
        redis.call('HDEL', retry, id, id .. ':owner', id .. ':lane')
        done = 1
      elseif not stored[1] then
        -- Nobody but this consumer could have settled it: it did, and the answer was lost.
        done = 1
      end
    end
  end
  answers[#answers + 1] = done
end
return answers

-- Divides the slices of one topic among the consumers that are alive, moving as few as it can: what is nobody's or a
-- dead consumer's goes to others at once, and of who has more than its share some are wanted.
-- KEYS: reader slices alive retry due wake
-- ARGV: turn consumer slices burying (1: whoever showed no sign of life for a lease is dead)
-- Returns 'divided' and the version.
local reader, slices, alive, retry, due, wake = unpack(KEYS)
local me, most, burying = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
if redis.call('GET', reader) ~= ARGV[1] then
  return {'standby'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local load, names = {[me] = 0}, {me}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', alive, string.format('%.0f', now), '+inf')) do
  if not load[name] then
    load[name] = 0
    names[#names + 1] = name
  end
end
table.sort(names)

local fields = {}
for slice = 0, most - 1 do
  fields[#fields + 1] = slice
  fields[#fields + 1] = slice .. ':wanted'
end
local values = redis.call('HMGET', slices, unpack(fields))
local owners, wanted, free, changed = {}, {}, {}, false
local function set(field, value)
  redis.call('HSET', slices, field, value)
  changed = true
end
for slice = 0, most - 1 do
  local owner = values[2 * slice + 1]
  owner = owner and string.match(owner, '^(.*):%d+$')
  wanted[slice] = values[2 * slice + 2]
  if wanted[slice] and not load[wanted[slice]] then
    -- Who was told goes through with it: the slice is nobody's then.
    wanted[slice] = nil
  end
  if not owner then
    free[#free + 1] = slice
  elseif load[owner] then
    owners[slice] = owner
    local name = wanted[slice] or owner
    load[name] = load[name] + 1
  elseif burying then
    free[#free + 1] = slice
    -- What it may have had in hand may be what it died of.
    local out = redis.call('HGET', slices, slice .. ':out')
    local suspect = redis.call('HGET', slices, slice .. ':suspect')
    if out and not (suspect and later(suspect, out)) then
      redis.call('HSET', slices, slice .. ':suspect', out)
    end
    -- What it has of the retry store is due at once, and its tokens are void.
    local store = due .. '.' .. slice
    local from = 0
    local ids = redis.call('ZRANGE', store, 0, 999)
    while #ids > 0 do
      local tokens = {}
      for n, id in ipairs(ids) do
        tokens[n] = id .. ':owner'
      end
      for n, token in ipairs(redis.call('HMGET', retry, unpack(tokens))) do
        if token then
          redis.call('HSET', retry, tokens[n], 'void')
          redis.call('ZADD', store, 0, ids[n])
        end
      end
      from = from + 1000
      ids = redis.call('ZRANGE', store, from, from + 999)
    end
  end
end

local function least()
  local best = names[1]
  for _, name in ipairs(names) do
    if load[name] < load[best] then
      best = name
    end
  end
  return best
end
for _, slice in ipairs(free) do
  local name = least()
  set(slice, name .. ':' .. string.format('%.0f', redis.call('HINCRBY', slices, 'version', 1)))
  redis.call('HDEL', slices, slice .. ':wanted')
  load[name] = load[name] + 1
end
for slice = most - 1, 0, -1 do
  local owner = owners[slice]
  if owner and not wanted[slice] then
    local name = least()
    if load[owner] > load[name] + 1 then
      set(slice .. ':wanted', name)
      load[owner], load[name] = load[owner] - 1, load[name] + 1
    end
  end
end
if burying then
  redis.call('ZREMRANGEBYSCORE', alive, '-inf', '(' .. string.format('%.0f', now))
end
if changed then
  redis.call('HINCRBY', slices, 'version', 1)
  redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
end
return {'divided', redis.call('HGET', slices, 'version') or '0'}

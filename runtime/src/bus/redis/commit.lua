-- Acknowledges one delivery with its effects: all of them or none.
-- KEYS: stream retry due attempts space topic...
-- ARGV: group consumer id token maxlen
--       messages, then for each: index of its topic in KEYS, count of arguments, name value ...
--       reads, then for each: 'key' field version, or 'space' '' version
--       bytes that all keys of the space may hold, or 'any'
--       writes, then for each: 'set' field value, or 'del' field ''
local space = KEYS[5]
local maxlen = ARGV[5]
local at = 6
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local where = held()
if not where then
  return {'lost'}
end
local wrong = misused_stores()
if wrong then
  return wrong
end

local messages = {}
for n = 1, tonumber(take()) do
  local add = {'XADD', KEYS[tonumber(take())]}
  if maxlen ~= '0' then
    add[3], add[4], add[5] = 'MAXLEN', '~', maxlen
  end
  add[#add + 1] = '*'
  for _ = 1, tonumber(take()) do
    add[#add + 1] = take()
  end
  messages[n] = add
end
for index = 6, #KEYS do
  local key = KEYS[index]
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= 'stream' then
    return {'refused', key .. ' is a ' .. found .. ', not a stream: rename the topic or remove the key'}
  end
  -- The one other way in which an append can fail: no id is left after this one.
  if found == 'stream' and #messages > 1 then
    local info = redis.call('XINFO', 'STREAM', key)
    for field = 1, #info, 2 do
      if info[field] == 'last-generated-id' and string.sub(info[field + 1], 1, 21) == '18446744073709551615-' then
        return {'refused', key .. ' has used up its ids: somebody appended with the highest id there is'}
      end
    end
  end
end

local reads = tonumber(take())
local moved = false
local used = reads > 0
for _ = 1, reads do
  local what, field, version = take(), take(), take()
  if used then
    wrong = misused(space, 'hash')
    if wrong then
      return {'refused', space .. ' is a ' .. wrong[3] .. ', not a hash: remove the key'}
    end
    used = false
  end
  local now
  if what == 'space' then
    now = redis.call('HGET', space, 'seq')
  else
    now = redis.call('HGET', space, field)
    now = now and string.match(now, '^%d+')
  end
  moved = moved or (now or '0') ~= version
end
if moved then
  return {'conflict'}
end

local most = tonumber(take())
local total
local writes = {}
local count = tonumber(take())
for n = 1, count do
  writes[n] = {take(), take(), take()}
end
if count > 0 then
  wrong = misused(space, 'hash')
  if wrong then
    return {'refused', space .. ' is a ' .. wrong[3] .. ', not a hash: remove the key'}
  end
  local sequence = redis.call('HGET', space, 'seq') or '0'
  if not string.match(sequence, '^%d+$') or #sequence > 15 then
    return {'refused', space .. ' has the field seq, which is no count of writes: remove the key'}
  end
  if most then
    -- What the field says holds as long as nobody has written without counting since.
    local size = function(field, stored)
      return #field - 1 + #stored - #(string.match(stored, '^%d+:') or '')
    end
    local counted = redis.call('HGET', space, 'bytes') or ''
    local at_sequence, bytes = string.match(counted, '^(%d+):(%d+)$')
    total = at_sequence == sequence and tonumber(bytes) or nil
    if not total then
      total = 0
      local all = redis.call('HGETALL', space)
      for n = 1, #all, 2 do
        if string.sub(all[n], 1, 1) == '=' then
          total = total + size(all[n], all[n + 1])
        end
      end
    end
    local before, own = total, {}
    for n = 1, count do
      local what, field, value = writes[n][1], writes[n][2], writes[n][3]
      local old = own[field]
      if not old then
        local stored = redis.call('HGET', space, field)
        old = stored and size(field, stored) or 0
      end
      own[field] = what == 'set' and #field - 1 + #value or 0
      total = total + own[field] - old
    end
    if total > most and total > before then
      return {'refused', string.format(
        'the keys of the handler would hold %.0f bytes, and may hold %.0f; more: [handler.grants] keys = { max_bytes = "…" }',
        total, most)}
    end
  end
end

-- From here on only writes. The first is one that Redis refuses when it is out of memory; once it has passed, the
-- others pass.
for n = 1, #messages do
  redis.call(unpack(messages[n]))
end
for n = 1, count do
  local version = string.format('%.0f', redis.call('HINCRBY', space, 'seq', 1))
  local what, field, value = writes[n][1], writes[n][2], writes[n][3]
  if what == 'set' then
    redis.call('HSET', space, field, version .. ':' .. value)
  else
    redis.call('HDEL', space, field)
  end
end
if total then
  redis.call('HSET', space, 'bytes', string.format('%s:%.0f', redis.call('HGET', space, 'seq'), total))
end
release(where)
return {'done'}

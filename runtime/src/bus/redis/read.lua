-- Reads new entries of an exclusive group, if it is still this consumer's turn. Never blocks: a frozen client's
-- blocked read would still take entries.
-- KEYS: reader stream...
-- ARGV: group consumer count
if redis.call('GET', KEYS[1]) ~= ARGV[2] then
  return {'standby'}
end
local read = {'XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS'}
for n = 2, #KEYS do
  read[#read + 1] = KEYS[n]
end
for _ = 2, #KEYS do
  read[#read + 1] = '>'
end
local found = redis.call(unpack(read))
if found then
  return {'read', found}
end
-- Nothing: everything up to here is read, so the next is after these.
local last = {}
for n = 2, #KEYS do
  local entry = redis.call('XREVRANGE', KEYS[n], '+', '-', 'COUNT', 1)[1]
  last[#last + 1] = entry and entry[1] or '0-0'
end
return {'empty', last}

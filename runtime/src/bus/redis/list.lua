-- Lists the keys of a space that start with a prefix, with the space's count of writes at that moment.
-- KEYS: space
-- ARGV: prefix of the field
local found = {redis.call('HGET', KEYS[1], 'seq') or '0'}
local prefix = ARGV[1]
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #prefix) == prefix then
    found[#found + 1] = field
  end
end
return found

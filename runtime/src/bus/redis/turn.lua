-- Takes or keeps the turn to read an exclusive group.
-- KEYS: reader, then retry due for each topic
-- ARGV: consumer lease_ms
-- Returns 'mine' (had it), 'new' (has just got it), or 'other' and how long the other's turn lasts without renewal.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  return {'mine', 0}
end
if holder then
  return {'other', redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
-- Whatever the former reader has of the retry store is due at once, and its tokens are void: it must not settle
-- what the new one has been told to wait for.
for n = 2, #KEYS, 2 do
  local fields = redis.call('HKEYS', KEYS[n])
  for _, field in ipairs(fields) do
    local id = string.match(field, '^(.+):owner$')
    if id then
      redis.call('HSET', KEYS[n], field, 'void')
      redis.call('ZADD', KEYS[n + 1], 0, id)
    end
  end
end
return {'new', 0}

-- Lists what was read and not placed: by this consumer, whose answer was lost, or by a reader that died.
-- KEYS: stream reader
-- ARGV: group turn count
-- Returns 'found' and entries: id, and fields or nil if it was trimmed.
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return {'standby'}
end
local found = {'found'}
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[3], 'sandbar-reader')) do
  local stored = redis.call('XRANGE', KEYS[1], entry[1], entry[1])[1]
  found[#found + 1] = {entry[1], stored and stored[2] or false}
end
return found

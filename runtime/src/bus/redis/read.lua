-- Reads new entries of a group with order, if it is still this consumer's turn, under a name that stands for the
-- group's reader. Never blocks: a frozen client's blocked read would still take entries.
-- KEYS: stream reader slices
-- ARGV: group turn version lease_ms count pending_max (0: no matter)
local stream, group = KEYS[1], ARGV[1]
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return {'standby'}
end
if (redis.call('HGET', KEYS[3], 'version') or '0') ~= ARGV[3] then
  return {'changed'}
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if ARGV[6] ~= '0' and redis.call('XPENDING', stream, group)[1] >= tonumber(ARGV[6]) then
  return {'full'}
end
local found = redis.call('XREADGROUP', 'GROUP', group, 'sandbar-reader', 'COUNT', ARGV[5], 'STREAMS', stream, '>')
if found then
  return {'read', found[1][2]}
end
-- Nothing: everything up to here is read, so the next is after this.
local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
return {'empty', entry and entry[1] or '0-0'}

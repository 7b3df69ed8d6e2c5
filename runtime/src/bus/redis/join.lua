-- Makes stream and group where they are missing, and registers the consumer.
-- KEYS: stream hosts mark
-- ARGV: group consumer start life_ms
-- Returns the type of the key if it is no stream; else whether the group was made.
local found = redis.call('TYPE', KEYS[1]).ok
if found ~= 'none' and found ~= 'stream' then
  return {'wrongtype', KEYS[1], found, 'stream'}
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[3], 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then
  return redis.error_reply(made.err)
end
-- From 7.0 on the server counts what a group has read of all that was ever added, if it is told where to begin. What
-- was trimmed before the group was made was never its own.
if not made.err and (ARGV[3] == '0' or ARGV[3] == '$') then
  local info = {}
  local fields = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #fields, 2 do
    info[fields[at]] = fields[at + 1]
  end
  if info['entries-added'] then
    local from = ARGV[3] == '$' and info['entries-added'] or info['entries-added'] - info['length']
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[3], 'ENTRIESREAD', string.format('%.0f', from))
  end
end
local time = redis.call('TIME')
redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4])), ARGV[2])
return {made.err and 'joined' or 'made'}

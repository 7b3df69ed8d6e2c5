-- Who is in a group, by its own list and by ours, at one moment: whoever joins in between would stand on one list only.
-- KEYS: stream hosts
-- ARGV: group
-- Returns seconds since 1970, then ours and until when each counts as alive, then for each consumer: name, idle time.
local ours = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local all = {}
local found = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if not found.err then
  for n, consumer in ipairs(found) do
    local fields = {}
    for at = 1, #consumer, 2 do
      fields[consumer[at]] = consumer[at + 1]
    end
    all[n] = {fields['name'], fields['idle']}
  end
end
return {redis.call('TIME')[1], ours, all}

-- A group that had order and has none now: what lies in slices of the retry store comes back to the one store, once no
-- consumer with order is alive. What is pending in slices is claimed by its idle time.
-- KEYS: due slices alive
-- ARGV: slices
local due, slices, alive = unpack(KEYS)
if redis.call('EXISTS', slices) == 0 then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZCOUNT', alive, string.format('%.0f', now), '+inf') > 0 then
  return 0
end
for slice = 0, tonumber(ARGV[1]) - 1 do
  local store = due .. '.' .. slice
  if redis.call('EXISTS', store) == 1 then
    redis.call('ZUNIONSTORE', due, 2, due, store, 'AGGREGATE', 'MAX')
    redis.call('DEL', store)
  end
end
return 1

-- Gives up slices that others are to have, once nothing of them is in hand.
-- KEYS: slices alive wake
-- ARGV: consumer, then number and generation of each
local slices, alive, wake = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local given = false
for at = 2, #ARGV, 2 do
  local slice = ARGV[at]
  if redis.call('HGET', slices, slice) == ARGV[1] .. ':' .. ARGV[at + 1] then
    local heir = redis.call('HGET', slices, slice .. ':wanted')
    -- Nothing of it is in hand, so nothing of it will be suspected of having killed its owner.
    redis.call('HDEL', slices, slice, slice .. ':wanted', slice .. ':out')
    local version = string.format('%.0f', redis.call('HINCRBY', slices, 'version', 1))
    local until_ = heir and redis.call('ZSCORE', alive, heir)
    if until_ and tonumber(until_) >= now then
      redis.call('HSET', slices, slice, heir .. ':' .. version)
    end
    given = true
  end
end
if given then
  redis.call('XADD', wake, 'MAXLEN', 16, '*', 'n', 1)
end
return given and 1 or 0

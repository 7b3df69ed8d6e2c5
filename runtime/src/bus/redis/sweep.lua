-- Removes consumers of ours that died long ago and have nothing pending.
-- KEYS: stream hosts reports
-- ARGV: group silent_ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local removed = {}
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, 100)) do
  local left = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, host)
  if left.err or #left == 0 then
    redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], host)
    redis.call('ZREM', KEYS[2], host)
    redis.call('HDEL', KEYS[3], host)
    removed[#removed + 1] = host
  end
end
return removed

-- Put before every script that touches a delivery in hand. KEYS 1 to 4 and ARGV 1 to 4 are the same in all of them.
local stream, retry, due, attempts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, id, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function misused_stores()
  return misused(retry, 'hash') or misused(due, 'zset') or misused(attempts, 'hash')
end

-- Takes the delivery out of hand. Always the last write.
local function release(where)
  redis.call('HDEL', attempts, id)
  if where == 'retry' then
    redis.call('ZREM', due, id)
    redis.call('HDEL', retry, id, id .. ':owner', id .. ':lane')
  else
    redis.call('XACK', stream, group, id)
  end
end

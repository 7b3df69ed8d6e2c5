-- Moves dead letters back to their topic, or to the group's retry store due at once.
-- KEYS: dead stream retry due attempts
-- ARGV: to ours, then for each: id; and for the retry store its record and the position it has there
-- Returns how many were moved.
local dead, stream, retry, due, attempts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local to, ours = ARGV[1], tonumber(ARGV[2])
local wrong = misused(dead, 'stream') or misused(stream, 'stream') or misused(retry, 'hash')
  or misused(due, 'zset') or misused(attempts, 'hash')
if wrong then
  return wrong
end
local moved = 0
local at = 3
while at <= #ARGV do
  local id = ARGV[at]
  local letter = redis.call('XRANGE', dead, id, id)[1]
  if to == 'topic' then
    at = at + 2
    if letter then
      local fields = letter[2]
      for _ = 1, 2 * ours do
        fields[#fields] = nil
      end
      fields[#fields + 1] = 'sandbar-first'
      fields[#fields + 1] = ARGV[at - 1]
      redis.call('XADD', stream, '*', unpack(fields))
    end
  else
    at = at + 3
    local position = ARGV[at - 1]
    -- The same event waits there already, if it was handled and given up twice: this letter stays where it is.
    if letter and redis.call('HEXISTS', retry, position) == 1 then
      letter = nil
    end
    if letter then
      redis.call('HSET', retry, position, ARGV[at - 2])
      redis.call('HDEL', retry, position .. ':owner', position .. ':lane')
      redis.call('ZADD', due, 0, position)
      redis.call('HDEL', attempts, position)
    end
  end
  if letter then
    redis.call('XDEL', dead, id)
    moved = moved + 1
  end
end
return {'done', moved}

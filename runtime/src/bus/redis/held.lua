
-- Whether the delivery is still in this consumer's hand: pending under its name, or in the retry store under the
-- token of this very hand-out.
local function held()
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if not found.err and found[1] and found[1][2] == consumer then
    return 'pending'
  end
  if redis.call('HGET', retry, id .. ':owner') == token then
    return 'retry'
  end
end


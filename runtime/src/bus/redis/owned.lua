
-- In a group with order. KEYS 5 holds who has which slice; ARGV 5 is the delivery's slice, ARGV 6 its owner as it was
-- when the delivery was handed out. They are taken out, so that the script proper finds its own in the same places.
local owner_of = table.remove(KEYS, 5)
local slice = table.remove(ARGV, 5)
local owner = table.remove(ARGV, 5)

-- Whether the delivery is still in this consumer's hand: its slice has not changed hands since, and it is pending in
-- the slice or lies in the retry store under the token of this very hand-out.
local function held()
  if redis.call('HGET', owner_of, slice) ~= owner then
    return
  end
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if not found.err and found[1] and found[1][2] == 'sandbar-slice-' .. slice then
    return 'pending'
  end
  if redis.call('HGET', retry, id .. ':owner') == token then
    return 'retry'
  end
end


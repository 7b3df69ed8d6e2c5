-- Removes what every group has acknowledged.
-- KEYS: stream turn
-- ARGV: who lease_ms cursor
-- `cursor` is empty for the first step, else what the step before returned. Nobody else takes a turn for one lease.
-- Returns the next cursor, or '' if this was the last step; how many were removed; the group that holds the topic up; and
-- the topic's length. Returns nothing if it is another's turn.
local stream = KEYS[1]
if ARGV[3] == '' and not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return {}
end
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if groups.err or #groups == 0 then
  return {'', 0, '', 0}
end

-- Ids as strings: the numbers are larger than Lua's are exact.
local function less(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if ms ~= other_ms then
    return #ms < #other_ms or (#ms == #other_ms and ms < other_ms)
  end
  return #seq < #other_seq or (#seq == #other_seq and seq < other_seq)
end

-- All groups have read up to `read`; and before `oldest` nothing is pending either. The entry at a group's position stays:
-- it is not worth reckoning with its successor's id.
local read, oldest, holder
for _, fields in ipairs(groups) do
  local found = {}
  for at = 1, #fields, 2 do
    found[fields[at]] = fields[at + 1]
  end
  local delivered = found['last-delivered-id']
  local first = delivered
  if found['pending'] > 0 then
    local pending = redis.call('XPENDING', stream, found['name'])[2]
    if pending and less(pending, first) then
      first = pending
    end
  end
  if not read or less(delivered, read) then
    read = delivered
  end
  if not oldest or less(first, oldest) then
    oldest, holder = first, found['name']
  end
end

-- Whole nodes, as many as a moment allows.
local removed = redis.call('XTRIM', stream, 'MINID', '~', oldest, 'LIMIT', 10000)
local next_step = removed >= 5000 and '-' or ''
local can_pass = redis.pcall('XTRIM', stream, 'MINID', '=', '0-0', 'ACKED')
if next_step == '' and less(oldest, read) and type(can_pass) == 'number' then
  -- From 8.2 on the server can pass over what is pending and remove what lies after it. Entry by entry, so a page at a
  -- time: an approximate threshold would stop at the first node that has something pending.
  local from = (ARGV[3] == '' or ARGV[3] == '-') and oldest or ARGV[3]
  local page = redis.call('XRANGE', stream, from, '(' .. read, 'COUNT', 1000)
  if #page > 0 then
    removed = removed + redis.call('XTRIM', stream, 'MINID', '=', page[#page][1], 'ACKED')
    if #page == 1000 then
      next_step = page[#page][1]
    end
  end
end
return {next_step, removed, holder, redis.call('XLEN', stream)}

-- Renews what is in hand on one topic, shows a sign of life, and notes where the group would have to start again.
-- KEYS: stream retry due hosts mark reader lost
-- ARGV: group consumer lease_ms exclusive pending retries life_ms, then the ids pending, then id token for each retry
-- Returns lost ids, trimmed ids, the group's last-delivered-id, how many unread messages are found to be gone, and 1 if
-- there may be more of those.
local stream, retry, due = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local pending, retries = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- See begin.lua: signs of life pass even when Redis is out of memory.
redis.call('ZREM', KEYS[4], '')
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(ARGV[7])), consumer)
if ARGV[4] == '1' and redis.call('GET', KEYS[6]) == consumer then
  redis.call('PEXPIRE', KEYS[6], lease)
end

local lost, trimmed, kept = {}, {}, {}
for n = 8, 7 + pending do
  local id = ARGV[n]
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err or not found[1] or found[1][2] ~= consumer then
    lost[#lost + 1] = id
  elseif #redis.call('XRANGE', stream, id, id) == 0 then
    trimmed[#trimmed + 1] = id
  else
    kept[#kept + 1] = id
  end
end
if #kept > 0 then
  kept[#kept + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(kept))
end
for n = 8 + pending, 6 + pending + 2 * retries, 2 do
  local id, token = ARGV[n], ARGV[n + 1]
  if redis.call('HGET', retry, id .. ':owner') == token then
    redis.call('ZADD', due, string.format('%.0f', now + lease), id)
  else
    lost[#lost + 1] = id
  end
end

-- What was trimmed without having been read is counted here, once: the server takes no notice of it.
local function later(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, seq, other_ms, other_seq = tonumber(ms), tonumber(seq), tonumber(other_ms), tonumber(other_seq)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end

local function named(info)
  local fields = {}
  for at = 1, #info, 2 do
    fields[info[at]] = info[at + 1]
  end
  return fields
end

-- Returns how many unread messages are gone that were not counted before, and 1 if there may be more. `known` is the
-- last entry that was there at the renewal before this one.
local function unread_and_gone(info, delivered, read, known)
  local newest, added = info['last-generated-id'], info['entries-added']
  local first = info['first-entry'] and info['first-entry'][1]
  local behind = not first or later(first, delivered)
  if added and read then
    -- Of all that was ever added, so many lie before the first that is kept: unless some were deleted further back.
    local before = added - info['length']
    local deleted = info['max-deleted-entry-id']
    local upto
    if delivered == newest then
      -- All is read: what was not counted was passed over.
      upto = added
    elseif behind and not (first and deleted and later(deleted, first)) then
      upto = before
    end
    if upto and upto > read then
      -- From now on the server counts from here; the position stays.
      redis.call('XGROUP', 'SETID', stream, group, delivered, 'ENTRIESREAD', string.format('%.0f', upto))
      return upto - read, 0
    end
    return 0, 0
  end
  -- The server does not count (before 7.0), or has lost count: but the last one known was there, and unread.
  if known and later(known, delivered) and (not first or later(first, known)) then
    return 1, 1
  end
  return 0, 0
end

-- How much a group has read reaches replicas and the append-only file late: a server that has taken over, or was started
-- again, says less than is true. Nothing is told of such a count; it is put right as far as can be known.
local function recount(info, delivered)
  local read = '-1'
  local first = info['first-entry'] and info['first-entry'][1]
  if not info['entries-added'] then
    return
  elseif delivered == info['last-generated-id'] then
    read = string.format('%.0f', info['entries-added'])
  elseif not first or later(first, delivered) then
    read = string.format('%.0f', info['entries-added'] - info['length'])
  end
  redis.call('XGROUP', 'SETID', stream, group, delivered, 'ENTRIESREAD', read)
end

local server = redis.pcall('INFO', 'server')
-- Who may not ask goes without.
local run = type(server) == 'string' and string.match(server, 'run_id:(%x+)') or ''

-- The mark: 'p' and the oldest pending id: start before it. 'd' and the last delivered id: start after it. Then the
-- last id there is, and which run of which server wrote it.
local delivered, gone, more = '', 0, 0
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if not groups.err then
  for _, fields in ipairs(groups) do
    local found = named(fields)
    if found['name'] == group then
      delivered = found['last-delivered-id']
      local info = named(redis.call('XINFO', 'STREAM', stream))
      local known, writer = string.match(redis.call('GET', KEYS[5]) or '', ' (%d+%-%d+) ?(%x*)$')
      if known and writer ~= '' and run ~= '' and writer ~= run then
        recount(info, delivered)
      else
        gone, more = unread_and_gone(info, delivered, found['entries-read'], known)
      end
      if gone > 0 then
        redis.call('INCRBY', KEYS[7], gone)
      end
      local summary = redis.call('XPENDING', stream, group)
      local mark = summary[1] > 0 and 'p' .. summary[2] or 'd' .. delivered
      redis.call('SET', KEYS[5], mark .. ' ' .. (info['last-entry'] and info['last-entry'][1] or '0-0') .. ' ' .. run)
    end
  end
end
return {lost, trimmed, delivered, gone, more}


-- The end of every renewal: the mark, and what is gone unread.
local mark_key, lost_key = KEYS[5], KEYS[6]

-- What was trimmed without having been read is counted here, once: the server takes no notice of it.
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
-- again, says less than is true. It is put right as far as can be known; without a count the server finds its place by
-- itself.
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

-- Which run of the server this is; empty where we may not ask.
local function run()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
end

-- The server can only be asked about all groups at once, so where there are many the last argument says 0 most of the time.
if ARGV[#ARGV] == '0' then
  return {lost, trimmed, false, 0, 0, '', 0}
end

-- The mark: 'p' and the oldest pending id: start before it. 'd' and the last delivered id: start after it. Then the
-- last id there is, and the run of the server.
local delivered, gone, more, first = '', 0, 0, ''
local groups = redis.pcall('XINFO', 'GROUPS', stream)
local count = 0
if not groups.err then
  count = #groups
  for _, fields in ipairs(groups) do
    local found = named(fields)
    if found['name'] == group then
      delivered = found['last-delivered-id']
      local info = named(redis.call('XINFO', 'STREAM', stream))
      first = info['first-entry'] and info['first-entry'][1] or '+'
      local before = redis.call('GET', mark_key) or ''
      local known = string.match(before, ' (%d+%-%d+)')
      local current = run()
      if known and current ~= '' and string.match(before, ' (%x+)$') ~= current then
        -- Nothing is told of what the server counted.
        recount(info, delivered)
        found['entries-read'] = false
      end
      gone, more = unread_and_gone(info, delivered, found['entries-read'], known)
      if gone > 0 then
        redis.call('INCRBY', lost_key, gone)
      end
      local summary = redis.call('XPENDING', stream, group)
      local mark = summary[1] > 0 and 'p' .. summary[2] or 'd' .. delivered
      local last = info['last-entry'] and info['last-entry'][1] or '0-0'
      redis.call('SET', mark_key, mark .. ' ' .. last .. ' ' .. current)
    end
  end
end
return {lost, trimmed, delivered, gone, more, first, count}

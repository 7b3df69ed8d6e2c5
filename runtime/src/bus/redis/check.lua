-- Looks, before anything is appended elsewhere, whether an acknowledgement would be taken. Changes nothing.
-- KEYS: stream retry due attempts space
-- ARGV: group consumer id token reads, then for each: 'key' field version, or 'space' '' version
if not held() then
  return {'lost'}
end
local wrong = misused_stores()
if wrong then
  return wrong
end
local reads = tonumber(ARGV[5])
if reads > 0 then
  wrong = misused(KEYS[5], 'hash')
  if wrong then
    return {'refused', KEYS[5] .. ' is a ' .. wrong[3] .. ', not a hash: remove the key'}
  end
end
for at = 6, 3 + 3 * reads, 3 do
  local now
  if ARGV[at] == 'space' then
    now = redis.call('HGET', KEYS[5], 'seq')
  else
    now = redis.call('HGET', KEYS[5], ARGV[at + 1])
    now = now and string.match(now, '^%d+')
  end
  if (now or '0') ~= ARGV[at + 2] then
    return {'conflict'}
  end
end
return {'done'}

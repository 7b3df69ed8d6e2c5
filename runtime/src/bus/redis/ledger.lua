-- Writes a ledger, whole or not at all.
-- KEYS: ledger
-- ARGV: before text adds (key value)... keeps key...
-- Returns 'done' and the new revision, or 'moved' if its revision is not `before`.
local wrong = misused(KEYS[1], 'hash')
if wrong then
  return wrong
end
local ledger = KEYS[1]
if (redis.call('HGET', ledger, 'revision') or '0') ~= ARGV[1] then
  return {'moved'}
end
local revision = tonumber(ARGV[1]) + 1
local write = {'revision', string.format('%.0f', revision), 'text', ARGV[2]}
local at = 4
for _ = 1, tonumber(ARGV[3]) do
  write[#write + 1] = '=' .. ARGV[at]
  write[#write + 1] = ARGV[at + 1]
  at = at + 2
end
local keep = {['revision'] = true, ['text'] = true}
for place = at + 1, #ARGV do
  keep['=' .. ARGV[place]] = true
end
-- In one command: it is refused whole if there is no memory for it.
redis.call('HSET', ledger, unpack(write))
for _, field in ipairs(redis.call('HKEYS', ledger)) do
  if not keep[field] then
    redis.call('HDEL', ledger, field)
  end
end
return {'done', string.format('%.0f', revision)}

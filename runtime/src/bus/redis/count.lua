-- Counts one page of a stream without sending it.
-- KEYS: stream
-- ARGV: from count
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
return {#page, #page > 0 and page[#page][1] or ''}

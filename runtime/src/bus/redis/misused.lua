-- Scripts do not roll back: what could fail half-way is looked at first. Returns an answer if a key cannot be used.
local function misused(key, expected)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= expected then
    return {'wrongtype', key, found, expected}
  end
end


#!lua
-- Take away what is of no more use: lines of the audit by their age, and last uses of keys that are gone and of subjects
-- that have not come for as long.
--
-- KEYS     audit, used, the index of all keys
-- ARGV     seconds that a line and a subject's use are kept, how many of each are looked at, where to go on in the uses
-- Returns  {lines taken away, uses taken away, where to go on ('0': at the beginning)}
local audit, used, keys = KEYS[1], KEYS[2], KEYS[3]
local most, cursor = ARGV[2], ARGV[3]
local oldest = redis.call('TIME')[1] - ARGV[1]

local function is_old(line)
  return line[2][2] / 1000 < oldest -- `at` is the first of its fields, in milliseconds
end

-- The last line stays, however old it is: the numbers of changes go on from it (write.lua).
local lines = 0
local first = redis.call('XRANGE', audit, '-', '+', 'COUNT', 1)[1]
if first and is_old(first) then
  local last = redis.call('XREVRANGE', audit, '+', '-', 'COUNT', 1)[1][1]
  for _, line in ipairs(redis.call('XRANGE', audit, '-', '+', 'COUNT', most)) do
    if not is_old(line) or line[1] == last then
      break
    end
    lines = lines + redis.call('XDEL', audit, line[1])
  end
end

local uses = 0
local step = redis.call('HSCAN', used, cursor, 'COUNT', most)
for i = 1, #step[2], 2 do
  local name, at = step[2][i], tonumber(step[2][i + 1])
  local gone = not redis.call('ZSCORE', keys, name)
  if string.find(name, ':', 1, true) then -- a subject, ISSUER:SUB, who has no record
    gone = at < oldest
  end
  if gone then
    uses = uses + redis.call('HDEL', used, name)
  end
end
return {lines, uses, step[1]}

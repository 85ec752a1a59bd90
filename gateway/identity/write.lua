#!lua
-- Change one record, if it is still as its author saw it, and tell everybody: all of it or nothing.
--
-- KEYS[1]   the record
-- KEYS[2..] index, version, changes, audit, the records that must be there, and for a key its organization's index
-- ARGV      kind, name, expected ('' any, '0' none may be there, else the version that must be), body ('' to remove),
--           seconds it is kept ('0' for ever), changes kept, how many records must be there,
--           then the audit's fields in pairs
-- Returns   {1, version}; where it is not as expected, {0, the version that is there (0: none)}; and where a record is
--           not there that must be, {-1, which of them (from 0)}
local record, index, version, changes, audit = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local kind, name, expected, body, kept, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local required = tonumber(ARGV[7])
local own = KEYS[6 + required]
local there = redis.call('HGET', record, 'v') or '0'
if (expected ~= '' and expected ~= there) or (body == '' and there == '0') then
  return {0, tonumber(there)}
end
for which = 1, required do
  if redis.call('EXISTS', KEYS[5 + which]) == 0 then
    return {-1, which - 1}
  end
end
-- The streams outlive a lost counter: a number is never given twice, or gateways would take new for old, and the audit
-- would not take it at all.
local told = 0
for _, stream in ipairs({changes, audit}) do
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  told = math.max(told, last and tonumber(string.match(last[1], '^(%d+)')) or 0)
end
local now = redis.call('INCR', version)
if now <= told then
  now = told + 1
  redis.call('SET', version, string.format('%.0f', now))
end
local number = string.format('%.0f', now)
if body == '' then
  redis.call('DEL', record)
  redis.call('ZREM', index, name)
  if own then redis.call('ZREM', own, name) end
else
  redis.call('HSET', record, 'v', number, 'b', body)
  if kept ~= '0' then
    redis.call('EXPIRE', record, kept)
  else
    redis.call('ZADD', index, 0, name)
    if own then redis.call('ZADD', own, 0, name) end
  end
end
local time = redis.call('TIME')
local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('XADD', changes, 'MAXLEN', '~', most, number .. '-0', 'kind', kind, 'name', name)
redis.call('XADD', audit, number .. '-0', 'at', at, 'kind', kind, 'name', name, unpack(ARGV, 8))
return {1, now}

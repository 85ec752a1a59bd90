#!lua
-- Say that this gateway lives, and what is new here; return what is new elsewhere.
--
-- KEYS      alive, changes, marks, this gateway's row
-- ARGV      this gateway, for how long it may be silent (ms), the last change and the last marks that it has read
--           ('': none; it then tells all its values and reads all), its new values (msgpack, by deployment; '' for one
--           that is gone) or '', its new marks or ''
-- Returns   {} where it must tell and read all; else {last change, last marks, how many live, those that are lost,
--           {gateway, kind, values, ...}, {marks, ...}}
local alive, changes, marks, row = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local me, silence, since, heard, values, told = unpack(ARGV)
-- Entries kept of the two streams; bytes of marks read at once; ms of marks that a newcomer reads; ms after which what a
-- lost gateway left is removed; arguments of one command.
local CHANGES, MARKS, BYTES, LATELY, KEPT, MOST = 1000, 300, 32768, 60000, 30000, 1000
local rows = string.sub(row, 1, #row - #me)
local whole = since == ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function at(moment) return string.format('%.0f', moment) end

local news = {}
local function tell(gateway, kind, packed)
  news[#news + 1], news[#news + 2], news[#news + 3] = gateway, kind, packed
end
if not whole then
  local known = tonumber(redis.call('ZSCORE', alive, me) or 0)
  local unread = redis.call('XRANGE', changes, since, '+', 'COUNT', CHANGES)
  -- What it has read last is gone where the stream was cut past it, or is another one.
  if known <= now or #unread == CHANGES or not unread[1] or unread[1][1] ~= since then return {} end
  for number = 2, #unread do
    local entry = unread[number][2]
    tell(entry[2], entry[4], entry[6])
  end
  since = unread[#unread][1]
end

redis.call('ZADD', alive, at(now + silence), me)
if whole then redis.call('DEL', row) end
if values ~= '' then
  local set = {}
  for deployment, value in pairs(cmsgpack.unpack(values)) do
    if value == '' then
      redis.call('HDEL', row, deployment)
    else
      set[#set + 1], set[#set + 2] = deployment, value
    end
  end
  for first = 1, #set, MOST do redis.call('HSET', row, unpack(set, first, math.min(first + MOST - 1, #set))) end
end
if whole or values ~= '' then
  local kind = whole and 'whole' or 'some'
  since = redis.call('XADD', changes, 'MAXLEN', '~', CHANGES, '*', 'gateway', me, 'kind', kind, 'values', values)
end

if whole then
  for _, gateway in ipairs(redis.call('ZRANGE', alive, '(' .. at(now), '+inf', 'BYSCORE')) do
    if gateway ~= me then
      local flat, there = redis.call('HGETALL', rows .. gateway), {}
      for number = 1, #flat, 2 do there[flat[number]] = flat[number + 1] end
      tell(gateway, 'whole', flat[1] and cmsgpack.pack(there) or '')
    end
  end
end

local unheard, bytes = {}, 0
local oldest = heard == '' and at(now - LATELY) or '(' .. heard
for number, entry in ipairs(redis.call('XREVRANGE', marks, '+', oldest, 'COUNT', MARKS)) do
  if number == 1 then heard = entry[1] end
  bytes = bytes + #entry[2][4]
  if bytes > BYTES then break end
  if entry[2][2] ~= me then unheard[#unheard + 1] = entry[2][4] end
end
if told ~= '' then
  heard = redis.call('XADD', marks, 'MAXLEN', '~', MARKS, '*', 'gateway', me, 'marks', told)
end

-- Those that are lost are told for a while, so that every gateway hears of each.
for _, gateway in ipairs(redis.call('ZRANGE', alive, '-inf', at(now - KEPT), 'BYSCORE')) do
  redis.call('ZREM', alive, gateway)
  redis.call('DEL', rows .. gateway)
end
local lost = redis.call('ZRANGE', alive, '-inf', at(now), 'BYSCORE')
return {since, heard, redis.call('ZCARD', alive) - #lost, lost, news, unheard}

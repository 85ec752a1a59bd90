#!lua
-- Ask for one call of an upstream's limit, or take in that it refused one. The arithmetic has a twin that says why:
-- policies/allowance.py. Change both.
--
-- KEYS[1]  what all gateways know of one account's limit for one model
-- ARGV     'take', the limit that is told (0: none); or 'refused', that limit, for how many microseconds the upstream
--          asked to be left alone (-1: it did not), calls that the gateway sent in the last minute, and '1' where it
--          kept to a limit
-- Returns  {microseconds until it may be asked again (0: granted), the limit that is believed (0: none is known),
--          microseconds until there is room for the next, less than 0 where so much is left of a burst}
local MINUTE = 60000000
local HOLD, KEPT, LEAST, UNTOLD = 10 * MINUTE, 60 * MINUTE, 2, 10
local FIRST_PAUSE, LONGEST_PAUSE, MOST_IN_A_ROW = 5000000, MINUTE, 4
local FIELDS = {'limit', 'paid_until', 'frozen_until', 'since', 'lowered', 'ceiling', 'in_a_row'}

local floor, max, min = math.floor, math.max, math.min
local key, what, told = KEYS[1], ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local known = {}
for place, raw in ipairs(redis.call('HMGET', key, unpack(FIELDS))) do
  known[FIELDS[place]] = tonumber(raw or 0)
end

local function believed()
  if known.limit > 0 and told > 0 then return min(known.limit, told) end
  return max(known.limit, told)
end

local function spacing(limit)
  local burst = max(1, floor(limit / 10))
  return burst, math.ceil(MINUTE / max(1, limit - burst))
end

local function make_sane(limit)
  if known.since - now <= MINUTE and known.paid_until - max(now, known.frozen_until) <= MINUTE then return end
  local burst, every = spacing(limit)
  known.paid_until = now + (burst - 1) * every
  known.frozen_until = min(known.frozen_until, now)
  known.since = now
  known.lowered = min(known.lowered, now)
end

local function keep()
  local learned = known.lowered > 0 and known.lowered + KEPT or 0
  local until_us = max(known.paid_until, known.frozen_until + MINUTE, learned)
  local words = {}
  for _, field in ipairs(FIELDS) do
    words[#words + 1] = field
    words[#words + 1] = string.format('%.0f', known[field])
  end
  redis.call('HSET', key, unpack(words))
  redis.call('PEXPIREAT', key, string.format('%.0f', floor(until_us / 1000) + 1))
end

local function grow()
  local clean = now - max(known.since, known.frozen_until)
  if clean < MINUTE then return end
  local limit, ceiling = known.limit + (told > 0 and 1 or max(1, floor(known.limit / 10))), known.ceiling
  if ceiling > 0 and limit >= ceiling then
    if known.limit < ceiling - 1 then
      limit = ceiling - 1
    elseif clean < HOLD then
      return
    else
      ceiling = 0
    end
  end
  if told > 0 and limit >= told then
    limit, ceiling = 0, 0
  end
  known.limit, known.ceiling, known.since = limit, ceiling, now
end

local function take()
  local limit = believed()
  if limit == 0 then return {0, 0, 0} end
  make_sane(limit)
  local burst, every = spacing(limit)
  local ahead = (burst - 1) * every
  local wait = max(known.frozen_until, known.paid_until - ahead) - now
  if wait > 0 then return {wait, limit, wait} end
  known.paid_until = max(known.paid_until, now) + every
  local room = known.paid_until - ahead - now
  if known.limit > 0 and room > 0 then grow() end
  keep()
  return {0, limit, room}
end

local function lower(sent, knew)
  local limit = believed()
  if limit == 0 then
    known.limit = max(UNTOLD, floor(sent * 4 / 5))
    known.ceiling, known.lowered = max(known.limit + 1, sent), now
  elseif told == 0 and not knew then
    known.limit = limit + floor(sent * 4 / 5)
    known.ceiling = known.ceiling > 0 and known.ceiling + sent or 0
  elseif now - known.lowered >= MINUTE then
    local least = max(LEAST, floor(told / 4))
    known.limit, known.ceiling, known.lowered = min(limit, max(least, floor(limit * 4 / 5))), limit, now
  end
end

local function refused(pause, sent, knew)
  make_sane(believed())
  lower(sent, knew)
  if now < known.frozen_until then
    known.frozen_until = max(known.frozen_until, now + pause)
  else
    known.in_a_row = now - known.frozen_until < MINUTE and min(known.in_a_row + 1, MOST_IN_A_ROW) or 0
    local own = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ known.in_a_row)
    known.frozen_until = now + (pause >= 0 and pause or own)
  end
  known.since = now
  local limit = believed()
  local burst, every = spacing(limit)
  local ahead = (burst - 1) * every
  known.paid_until = max(known.paid_until, known.frozen_until + ahead)
  keep()
  local wait = known.paid_until - ahead - now
  return {wait, limit, wait}
end

if what == 'take' then return take() end
return refused(tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1')

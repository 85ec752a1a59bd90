
-- Leases -------------------------------------------------------------------------------------------------------------------

local LOST_AFTER = 15 * SECOND -- without a call, after which a gateway is not counted among those that live
local PAGE = '500' -- reservations of a lost gateway that one beat reaps, so that no call holds the store for long
local PROVISIONAL = text(DAY / 1000) -- milliseconds in which what has expired may still become a settlement
local LOST = 'gateway_lost' -- a record's outcome
local COUNTED = 5000 -- milliseconds for which a count of gateways is believed
local TURN = 1000 -- milliseconds after a beat's look in which others need not: they find a loss later by that at most
local FEW = 10 -- gateways among which every beat looks: a look costs what it reads

local living_key = stem .. ':living' -- how many gateways lived when somebody looked last; expires

-- Expire a page of a lost gateway's reservations: charged as last counted, or as reserved. Returns how many there were,
-- and whether more are left.
local function reap(other)
  local key, counts = stem .. ':reservations:' .. other, stem .. ':counts:' .. other
  local packed = redis.call('GET', counts)
  local counted = packed and cmsgpack.unpack(packed) or {}
  local cursor, page = '0', {}
  repeat -- the store may give up on a stretch of emptied places
    local step = redis.call('HSCAN', key, cursor, 'COUNT', PAGE)
    cursor, page = step[1], step[2]
  until #page > 0 or cursor == '0'
  local found, gone, expired = {}, {}, {}
  for i = 1, #page, 2 do
    found[page[i]] = unpack_reservation(page[i + 1])
    plan_of(found[page[i]].plan)
  end
  for id, one in pairs(found) do
    local head = one.head
    local used = counted[id] or { head[1], head[2], 0, 0, head[3], '', '' }
    local plan = replace(one, used)
    book(other .. '-' .. id, EXPIRED, head[ADMITTED], used, true, plan.account, used[6], { LOST, '', used[7] })
    gone[#gone + 1] = id
    expired[#expired + 1] = id
    expired[#expired + 1] = cmsgpack.pack({ used[1], used[2], used[3], used[4], used[5], head[ADMITTED], used[6] }) .. one.plan
  end
  local kept = stem .. ':expired:' .. other
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
    redis.call('HSET', kept, unpack(expired))
  end
  local left = redis.call('HLEN', key) > 0
  if not left then
    local last = redis.call('HGET', stem .. ':gateways', other .. '#')
    if last then -- it may have come back since, and asked for nothing
      redis.call('HSET', kept, '#', last)
    end
    redis.call('HDEL', stem .. ':gateways', other, other .. '#')
    redis.call('DEL', counts)
  end
  redis.call('PEXPIRE', kept, PROVISIONAL)
  return #gone, left
end

-- Whether a gateway is among those that live whose last call was then.
local function lives(called)
  return called and now - tonumber(called) <= LOST_AFTER
end

-- How many gateways have called for this organization lately, of all that are known; this one is among them.
local function count_living(calls)
  local count = 0
  for i = 1, #calls, 2 do
    if string.sub(calls[i], -1) ~= '#' and lives(calls[i + 1]) then
      count = count + 1
    end
  end
  return count
end

-- The same as somebody has lately counted, so that a call need not: no fewer than live, since whoever comes has all
-- counted anew (`run.lua`). Whoever counts here takes no beat's turn to look.
local function living()
  local count = redis.call('GET', living_key)
  if not count then
    count = text(count_living(redis.call('HGETALL', stem .. ':gateways')))
    redis.call('SET', living_key, count, 'PX', text(COUNTED - TURN))
  end
  return tonumber(count)
end

-- All gateways and their last calls where this beat looks at them, else false. It looks if it must, where gateways are
-- few, and where no other has in its turn for a while: of many there is one a second, however many of them are lost.
local function look(must)
  local before, left = redis.call('GET', living_key), redis.call('PTTL', living_key)
  local turn = not must and (left <= COUNTED - TURN or left > COUNTED) -- more: the store's clock has been set back
  if not (must or turn or tonumber(before) <= FEW) then
    return false
  end
  local calls = redis.call('HGETALL', stem .. ':gateways')
  if turn then
    redis.call('SET', living_key, text(count_living(calls)), 'PX', text(COUNTED))
  end
  return calls
end

-- {BEAT, counts or false, reservations known, lost after us, {gateway: its last call, as the caller has long seen it},
-- whether it must look at the others}
--   -> {DONE, {gateway, its last call, ...}, or false where it did not look, {id of a reservation that the caller may not
--      know, ...}, reaped, more}
local function beat(operation)
  local _, argument, known, lost_after, suspects, must = unpack(operation)
  if argument then
    redis.call('SET', stem .. ':counts:' .. gateway, ARGV[argument])
  end
  local reaped, more = 0, false
  local all = look(must)
  local calls = all and {}
  for i = 1, all and #all or 0, 2 do
    local other, last = all[i], all[i + 1] -- our own is now
    if string.sub(other, -1) ~= '#' then
      calls[#calls + 1], calls[#calls + 2] = other, last
      if suspects[other] == last and now - tonumber(last) > lost_after then
        local count, left = reap(other)
        reaped, more = reaped + count, more or left
      end
    end
  end
  local ids = redis.call('HLEN', open_key) > known and redis.call('HKEYS', open_key) or {}
  return { DONE, calls, ids, reaped, more }
end

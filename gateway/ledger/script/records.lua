
-- Reservations, and the records of what became of them -----------------------------------------------------------------

local STEP, ADMITTED, STOP = 4, 5, 6 -- of a reservation's head; 1 to 3 are input, output and money
local SETTLED, EXPIRED, CORRECTED, PLATFORM = 0, 1, 2, 3 -- what a record tells of
local KEPT = 400 * DAY -- of an hour's roll-up
local IDLE = text(8 * DAY / 1000) -- milliseconds after which nobody trims the records of an idle organization
local LETTERS = { 'i', 'o', 'c', 'r', 'm' } -- of prompt, completion, cached, reasoning, money

local open_key, expired_key = stem .. ':reservations:' .. gateway, stem .. ':expired:' .. gateway
local reservations, stored = {}, {}
local records, hours = {}, {}
local asked, called

local function unpack_reservation(raw)
  local offset, head = cmsgpack.unpack_one(raw)
  return { head = head, plan = string.sub(raw, offset + 1) }
end

local function fetch(operations)
  local ids = {}
  for _, operation in ipairs(operations) do
    if operation[1] ~= BEAT then
      ids[#ids + 1] = operation[2]
    end
  end
  if #ids > 0 then
    for i, raw in ipairs(redis.call('HMGET', open_key, unpack(ids))) do
      stored[ids[i]] = raw
    end
  end
end

-- This gateway's open reservation of that id, or false.
local function reservation_of(id)
  if reservations[id] == nil then
    reservations[id] = stored[id] and unpack_reservation(stored[id]) or false
  end
  return reservations[id]
end

-- The number of the last reservation that this gateway had asked for before this call, and when it last called (false:
-- nothing is known of it).
local function last_asked()
  if not asked then
    local told = redis.call('HMGET', stem .. ':gateways', gateway, gateway .. '#')
    called, asked = told[1], tonumber(told[2] or redis.call('HGET', expired_key, '#') or '0')
  end
  return asked, called
end

-- Whether this gateway has asked for that reservation, or for a later one, before: if it is not open, it is done with.
local function asked_before(id)
  return tonumber(id, 16) <= last_asked()
end

local function add(hour, field, amount)
  if amount ~= 0 then
    hours[hour] = hours[hour] or {}
    hours[hour][field] = (hours[hour][field] or 0) + amount
  end
end

-- Add to an hour's sums: so many calls, what they used ({prompt, completion, cached, reasoning, money}), and how many of
-- those tokens were estimated.
local function sum_up(admitted, account, deployment, calls, used, estimated)
  local field, hour = account .. cmsgpack.pack(deployment), floor(admitted, HOUR)
  add(hour, field .. 'n', calls)
  for i, letter in ipairs(LETTERS) do
    add(hour, field .. letter, used[i])
  end
  add(hour, field .. 'e', estimated)
end

-- A deployment (backend/model) by the name of its replica (backend@replica/model), where it has any.
local function of_replica(deployment, replica)
  local at = replica and replica ~= '' and string.find(deployment, '/', 1, true)
  return at and string.sub(deployment, 1, at - 1) .. '@' .. replica .. string.sub(deployment, at) or deployment
end

-- Write what became of a call; `used` as above, by difference where it is a correction, `ending` its outcome, its id and
-- which replica served: a record tells of that one.
local function record(id, what, admitted, used, estimated, account, deployment, ending)
  local head = { id, what, admitted, now, used[1], used[2], used[3], used[4], used[5], estimated }
  local names = account .. cmsgpack.pack(of_replica(deployment, ending[3])) .. cmsgpack.pack(ending[1], ending[2])
  records[#records + 1] = cmsgpack.pack(head) .. names
end

-- Both, of one call.
local function book(id, what, admitted, used, estimated, account, deployment, ending)
  record(id, what, admitted, used, estimated, account, deployment, ending)
  local calls = what == PLATFORM and 0 or 1
  sum_up(admitted, account, deployment, calls, used, estimated and used[1] + used[2] or 0)
end

local function write_reservations()
  local opened, closed = {}, {}
  for id, one in pairs(reservations) do
    if one and one.changed then
      opened[#opened + 1] = id
      opened[#opened + 1] = cmsgpack.pack(one.head) .. one.plan
    elseif not one and stored[id] then
      closed[#closed + 1] = id
    end
  end
  if #opened > 0 then
    redis.call('HSET', open_key, unpack(opened))
  end
  if #closed > 0 then
    redis.call('HDEL', open_key, unpack(closed))
  end
end

local function write_records()
  if #records > 0 then
    redis.call('XADD', stem .. ':records', '*', 'r', table.concat(records))
    redis.call('PEXPIRE', stem .. ':records', IDLE)
  end
  for hour, fields in pairs(hours) do
    local key, fresh = stem .. ':hour:' .. text(hour), false
    for field, amount in pairs(fields) do
      if amount ~= 0 then
        fresh = redis.call('HINCRBY', key, field, text(amount)) == amount or fresh
      end
    end
    if fresh then
      redis.call('PEXPIREAT', key, text(floor(hour * HOUR + KEPT, 1000)))
    end
  end
end

--[[
The ledger's one script: a list of operations on one organization, in order, in one call.

Law: whole numbers below 2^53; a number becomes text only through text(); the clock never steps back per organization;
every operation may come twice and counts once; a refusal changes nothing; one operation's error fails only itself.
The arithmetic has a twin in policies/buckets.py.

KEYS[1]  sw:{organization}, the stem of every key touched, so that all of them live in one slot
ARGV[1]  the calling gateway's id
ARGV[2]  msgpack: the operations, each an array that starts with its code
ARGV[3+] msgpack: plans and counts that operations name by their index here
Returns  msgpack: {now_us, {answer, ...}} or {error}. An answer starts with its outcome; {-1, error} is a failed one.

<stem>:clock                   the latest time seen, in microseconds
<stem>:gateways                gateway -> time of its last call
<stem>:level:<id>              <meter> used, <meter>@ time of that (rates) or <meter> slots in use; expires
<stem>:reservations:<gateway>  id -> msgpack {key, model, tokens, prompt tokens, step}, then msgpack plan
<stem>:counts:<gateway>        msgpack: id -> tokens counted so far, as of the last beat
<stem>:usage                   <key>|<model>|<what> -> lifetime total
]]

local stem, gateway = KEYS[1], ARGV[1]
local reservations = stem .. ':reservations:' .. gateway

local ADMIT, SETTLE, GROW, BEAT = 1, 2, 3, 4
local REFUSED, DONE, TOO_LARGE, FAILED = 0, 1, 2, -1
local REQUESTS, TOKENS, SLOTS = 'r', 't', 's'
local MEASURE, FIELD, LIMIT, BURST, PERIOD = 1, 2, 3, 4, 5 -- of a meter
local KEY, MODEL, RESERVED, PROMPT, STEP = 1, 2, 3, 4, 5 -- of a reservation

local MOST = 9007199254740991
local HOUR = 3600000000
local SLOT_WAIT = 1000000
local PAGE = '500' -- reservations of a lost gateway that one beat reaps, so that no call holds the store for long

local now
local plans, levels, records, stored, usage = {}, {}, {}, {}, {}

local function text(number)
  return string.format('%.0f', number)
end

local function message(err)
  return type(err) == 'table' and err.err or tostring(err)
end

-- a / b rounded up, exactly: fmod has no rounding, and a - fmod(a, b) is a multiple of b.
local function ceil(a, b)
  local rest = math.fmod(a, b)
  return (a - rest) / b + (rest > 0 and 1 or 0)
end

local function read_clock()
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local before = tonumber(redis.call('SET', stem .. ':clock', text(now), 'GET') or '0')
  if before > now then
    now = before
    redis.call('SET', stem .. ':clock', text(now))
  end
end

-- Levels and their meters --------------------------------------------------------------------------------------------

local function load_level(id)
  local level = levels[id]
  if not level then
    level = { key = stem .. ':level:' .. id, values = {}, full = 0, dirty = false }
    local flat = redis.call('HGETALL', level.key)
    for i = 1, #flat, 2 do
      level.values[flat[i]] = tonumber(flat[i + 1])
    end
    levels[id] = level
  end
  return level
end

-- Packed, a plan is {{level id, {meter, ...}}, ...}; here it is the list of all meters, each knowing its level and its
-- place. The levels are loaded now, so that what cannot be read fails before anything is changed.
local function plan_of(packed)
  if not plans[packed] then
    local meters = {}
    for i, entry in ipairs(cmsgpack.unpack(packed)) do
      for j, meter in ipairs(entry[2]) do
        meter.level, meter.at = load_level(entry[1]), meter[FIELD] .. '@'
        meter.i, meter.j = i, j
        meters[#meters + 1] = meter
      end
    end
    plans[packed] = meters
  end
  return plans[packed]
end

local function used_of(meter)
  local values = meter.level.values
  local elapsed = math.max(0, now - (values[meter.at] or now))
  -- Exact wherever it matters: a product of 2^53 or more is certainly more than what is used.
  return math.max(0, (values[meter[FIELD]] or 0) - elapsed * meter[LIMIT])
end

local function charge(meter, amount)
  local level, used = meter.level, math.min(MOST, math.max(0, used_of(meter) + amount * meter[PERIOD]))
  level.values[meter[FIELD]], level.values[meter.at] = used, now
  level.full = math.max(level.full, now + ceil(used, meter[LIMIT]))
  level.dirty = true
end

local function occupy(meter, slots)
  local values = meter.level.values
  values[meter[FIELD]] = math.max(0, (values[meter[FIELD]] or 0) + slots)
  meter.level.dirty = true
end

-- Microseconds until the meter has room for this, 0 if it has; math.huge if it never will.
local function wait_of(meter, tokens)
  if meter[MEASURE] == SLOTS then
    return (meter.level.values[meter[FIELD]] or 0) >= meter[LIMIT] and SLOT_WAIT or 0
  end
  local amount = meter[MEASURE] == TOKENS and tokens or 1
  if amount > meter[BURST] then
    return math.huge
  end
  local excess = used_of(meter) - meter[BURST] * meter[PERIOD] + amount * meter[PERIOD]
  return excess > 0 and ceil(excess, meter[LIMIT]) or 0
end

-- The tightest meter of one measure: its place in the plan and what is used of it; zeros if there is none.
local function tightest(plan, measure)
  local found, at_used, least = { i = 0, j = 0 }, 0, math.huge
  for _, meter in ipairs(plan) do
    if meter[MEASURE] == measure then
      local used = used_of(meter)
      local remaining = math.max(0, meter[BURST] - ceil(used, meter[PERIOD]))
      if remaining < least then
        found, at_used, least = meter, used, remaining
      end
    end
  end
  return found.i, found.j, at_used
end

-- Reservations -------------------------------------------------------------------------------------------------------

local function unpack_record(raw)
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
    for i, raw in ipairs(redis.call('HMGET', reservations, unpack(ids))) do
      stored[ids[i]] = raw
    end
  end
end

-- This gateway's open reservation of that id, or false.
local function record_of(id)
  if records[id] == nil then
    records[id] = stored[id] and unpack_record(stored[id]) or false
  end
  return records[id]
end

local function add(field, amount)
  if amount > 0 then
    usage[field] = (usage[field] or 0) + amount
  end
end

local function book(head, prompt, completion, estimated)
  local account = head[KEY] .. '|' .. head[MODEL] .. '|'
  add(account .. 'requests', 1)
  add(account .. 'prompt_tokens', prompt)
  add(account .. 'completion_tokens', completion)
  add(account .. 'estimated_tokens', estimated and prompt + completion or 0)
end

-- Replace what a reservation set aside by what was used, and free its slots.
local function settle_record(record, used)
  for _, meter in ipairs(plan_of(record.plan)) do
    if meter[MEASURE] == SLOTS then
      occupy(meter, -1)
    elseif meter[MEASURE] == TOKENS then
      charge(meter, used - record.head[RESERVED])
    end
  end
end

-- Operations ---------------------------------------------------------------------------------------------------------

local function admission(outcome, plan, refusing, wait)
  local r_level, r_meter, r_used = tightest(plan, REQUESTS)
  local t_level, t_meter, t_used = tightest(plan, TOKENS)
  return { outcome, refusing.i, refusing.j, wait, r_level, r_meter, r_used, t_level, t_meter, t_used }
end

-- {ADMIT, id, tokens, prompt tokens, key, model, plan}
--   -> {outcome, refusing level, its meter, wait, and for requests and for tokens the tightest level, its meter, used}
local function admit(operation)
  local _, id, tokens, prompt, key, model, argument = unpack(operation)
  local plan = plan_of(ARGV[argument])
  local refusing, longest = { i = 0, j = 0 }, 0
  if record_of(id) then
    return admission(DONE, plan, refusing, 0)
  end
  for _, meter in ipairs(plan) do
    local wait = wait_of(meter, tokens)
    if wait > longest then
      refusing, longest = meter, wait
    end
  end
  if longest == math.huge then
    return admission(TOO_LARGE, plan, refusing, 0)
  elseif longest > 0 then
    return admission(REFUSED, plan, refusing, longest)
  end
  for _, meter in ipairs(plan) do
    if meter[MEASURE] == SLOTS then
      occupy(meter, 1)
    else
      charge(meter, meter[MEASURE] == TOKENS and tokens or 1)
    end
  end
  records[id] = { head = { key, model, tokens, prompt, 0 }, plan = ARGV[argument], changed = true }
  return admission(DONE, plan, refusing, 0)
end

-- {SETTLE, id, booked, prompt tokens, completion tokens, estimated} -> {DONE, or REFUSED if it is not open}
local function settle(operation)
  local _, id, booked, prompt, completion, estimated = unpack(operation)
  local record = record_of(id)
  if not record then
    return { REFUSED }
  end
  settle_record(record, prompt + completion)
  if booked then
    book(record.head, prompt, completion, estimated)
  end
  records[id] = false
  return { DONE }
end

-- {GROW, id, step, tokens} -> {DONE or REFUSED}
local function grow(operation)
  local _, id, step, tokens = unpack(operation)
  local record = record_of(id)
  if not record then
    return { REFUSED }
  elseif step <= record.head[STEP] then
    return { DONE }
  end
  local plan = plan_of(record.plan)
  for _, meter in ipairs(plan) do
    if meter[MEASURE] == TOKENS and wait_of(meter, tokens) > 0 then
      return { REFUSED }
    end
  end
  for _, meter in ipairs(plan) do
    if meter[MEASURE] == TOKENS then
      charge(meter, tokens)
    end
  end
  record.head[RESERVED], record.head[STEP], record.changed = record.head[RESERVED] + tokens, step, true
  return { DONE }
end

-- Settle a page of a lost gateway's reservations as last counted, or as reserved. Returns how many there were, and
-- whether more are left.
local function reap(other)
  local key, counts = stem .. ':reservations:' .. other, stem .. ':counts:' .. other
  local packed = redis.call('GET', counts)
  local counted = packed and cmsgpack.unpack(packed) or {}
  local page = redis.call('HSCAN', key, '0', 'COUNT', PAGE)[2]
  local found, gone = {}, {}
  for i = 1, #page, 2 do
    found[page[i]] = unpack_record(page[i + 1])
    plan_of(found[page[i]].plan)
  end
  for id, record in pairs(found) do
    local used = counted[id] or record.head[RESERVED]
    local prompt = math.min(record.head[PROMPT], used)
    settle_record(record, used)
    book(record.head, prompt, used - prompt, true)
    gone[#gone + 1] = id
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
  local left = redis.call('HLEN', key) > 0
  if not left then
    redis.call('HDEL', stem .. ':gateways', other)
    redis.call('DEL', counts)
  end
  return #gone, left
end

-- {BEAT, counts, reservations known, lost after us, {gateway: its last call, as the caller has long seen it}}
--   -> {DONE, {gateway, its last call, ...}, {id of a reservation that the caller may not know, ...}, reaped, more}
local function beat(operation)
  local _, argument, known, lost_after, suspects = unpack(operation)
  redis.call('SET', stem .. ':counts:' .. gateway, ARGV[argument])
  local reaped, more = 0, false
  local calls = redis.call('HGETALL', stem .. ':gateways')
  for i = 1, #calls, 2 do
    local other, last = calls[i], calls[i + 1] -- our own is now
    if suspects[other] == last and now - tonumber(last) > lost_after then
      local count, left = reap(other)
      reaped, more = reaped + count, more or left
    end
  end
  local ids = redis.call('HLEN', reservations) > known and redis.call('HKEYS', reservations) or {}
  return { DONE, calls, ids, reaped, more }
end

-- Writing back -------------------------------------------------------------------------------------------------------

local function write_level(level)
  local values, fields = level.values, {}
  -- A level is forgotten only long after it is full again; the day on top spares a command in most calls.
  local keep = math.max(level.full, now) + 48 * HOUR
  local extend = (values.expires or 0) < keep
  if extend then
    values.expires = keep + 24 * HOUR
  end
  for field, value in pairs(values) do
    fields[#fields + 1] = field
    fields[#fields + 1] = text(value)
  end
  redis.call('HSET', level.key, unpack(fields))
  if extend then
    redis.call('PEXPIREAT', level.key, text(math.floor(values.expires / 1000)))
  end
end

local function write_reservations()
  local opened, closed = {}, {}
  for id, record in pairs(records) do
    if record and record.changed then
      opened[#opened + 1] = id
      opened[#opened + 1] = cmsgpack.pack(record.head) .. record.plan
    elseif not record and stored[id] then
      closed[#closed + 1] = id
    end
  end
  if #opened > 0 then
    redis.call('HSET', reservations, unpack(opened))
  end
  if #closed > 0 then
    redis.call('HDEL', reservations, unpack(closed))
  end
end

local HANDLERS = { [ADMIT] = admit, [SETTLE] = settle, [GROW] = grow, [BEAT] = beat }

local function run()
  local operations, answers = cmsgpack.unpack(ARGV[2]), {}
  read_clock()
  redis.call('HSET', stem .. ':gateways', gateway, text(now))
  fetch(operations)
  for i, operation in ipairs(operations) do
    local ok, answer = pcall(HANDLERS[operation[1]], operation)
    answers[i] = ok and answer or { FAILED, message(answer) }
  end
  for _, level in pairs(levels) do
    if level.dirty then
      write_level(level)
    end
  end
  write_reservations()
  for field, amount in pairs(usage) do
    redis.call('HINCRBY', stem .. ':usage', field, text(amount))
  end
  return answers
end

local ok, outcome = pcall(run)
return cmsgpack.pack(ok and { now, outcome } or { message(outcome) })


-- Meters: a state each, and four ways to keep one -----------------------------------------------------------------------

local MEASURE, KEEPING, FIELD, LIMIT, BURST, TICKS, TICK, ENFORCE, PERIODS = 1, 2, 3, 4, 5, 6, 7, 8, 9
local REQUESTS, INPUT, OUTPUT, TOKENS, MONEY, SLOT = 'r', 'i', 'o', 't', 'm', 's'
local RATE, CALENDAR, TOTAL, SLOTS = 'r', 'c', 'a', 's'

local USED, AT, ENDS = 1, 2, 2 -- of every state; of a rate's; of slots'
local ORDINAL, BEGUN, LAST, OWED, BEFORE, BEFORE_ORDINAL = 2, 3, 4, 5, 6, 7 -- of a calendar meter's
local TOTAL_BEGUN, TOTAL_LAST = 2, 3 -- of a total's
local MOST_ENDS = 64 -- predicted ends that are kept of the slots of one meter
local SLOT_WAIT = SECOND -- where every prediction has passed

local function tick(meter)
  return meter[TICK] == 1 and now or floor(now, meter[TICK])
end

-- The period of a calendar meter that `at` is in, of the two that its plan tells; the nearest where it is in neither.
local function period_of(meter, at)
  local ordinal, start, middle, following, stop = unpack(meter[PERIODS])
  if at < middle then
    return ordinal, start, middle
  end
  return following, middle, stop
end

-- A meter's state as it is kept; of one that was never charged, a new one.
local function state_of(meter)
  local level, field = meter.level, meter[FIELD]
  local state = level.states[field]
  if state then
    return state
  end
  local raw = level.values[field]
  if raw then
    level.states[field] = cmsgpack.unpack(raw)
    return level.states[field]
  elseif meter[KEEPING] == RATE then
    return { 0, tick(meter) }
  elseif meter[KEEPING] == SLOTS then
    return { 0, {} }
  elseif meter[KEEPING] == TOTAL then
    return { 0, now, now }
  end
  return { 0, (period_of(meter, now)), now, now, 0, 0, 0 }
end

-- Whether what was admitted then belongs to the period that is kept, or to one before it.
local function is_current(state, ordinal, admitted)
  return ordinal >= state[ORDINAL] or admitted >= state[BEGUN]
end

-- Keep a meter's new state, until `forget` at least.
local function keep(meter, state, forget)
  local level = meter.level
  level.states[meter[FIELD]], level.changed[meter[FIELD]] = state, true
  level.full = math.max(level.full, forget)
end

-- Begin a calendar meter's period anew, if another has come: what was used beyond the limits of those that are over is
-- owed by this one.
local function roll(meter)
  local state = state_of(meter)
  local ordinal, start = period_of(meter, now)
  local steps = ordinal - state[ORDINAL]
  if steps > 0 then
    local owed = math.max(0, state[USED] - steps * meter[LIMIT])
    keep(meter, { owed, ordinal, start, start, owed, state[USED], state[ORDINAL] }, now)
  end
end

local function used_of(meter)
  local state = state_of(meter)
  if meter[KEEPING] ~= RATE then
    return state[USED]
  end
  -- Exact wherever it matters: a product of 2^53 or more is certainly more than what is used.
  return math.max(0, state[USED] - math.max(0, tick(meter) - state[AT]) * meter[LIMIT])
end

local function remaining(meter, used)
  if meter[KEEPING] == RATE then
    return math.max(0, meter[BURST] - ceil(used, meter[TICKS]))
  end
  return math.max(0, meter[LIMIT] - used)
end

-- WAIT: microseconds until `amount` more fits, 0 if it does now; else math.huge and the outcome if it never will. A
-- calendar meter in debt for more than a period waits for periods as long as this one.
local WAIT = {
  [RATE] = function(meter, amount)
    if amount > meter[BURST] then
      return math.huge, TOO_LARGE
    end
    local excess = used_of(meter) - meter[BURST] * meter[TICKS] + amount * meter[TICKS]
    return excess > 0 and (tick(meter) + ceil(excess, meter[LIMIT])) * meter[TICK] - now or 0
  end,
  [CALENDAR] = function(meter, amount, admitted)
    local state = state_of(meter)
    local ordinal, start, stop = period_of(meter, admitted)
    local excess = (is_current(state, ordinal, admitted) and state[USED] or state[BEFORE]) + amount - meter[LIMIT]
    if amount > meter[LIMIT] then
      return math.huge, TOO_LARGE
    end
    -- A period that is over never has room again; who asks (growth) is told no more than that it has none.
    local wait = stop - now + (ceil(excess, meter[LIMIT]) - 1) * (stop - start)
    return excess > 0 and math.min(MOST, math.max(1, wait)) or 0
  end,
  [TOTAL] = function(meter, amount)
    if amount > meter[LIMIT] then
      return math.huge, TOO_LARGE
    elseif state_of(meter)[USED] + amount > meter[LIMIT] then
      return math.huge, SPENT
    end
    return 0
  end,
  [SLOTS] = function(meter)
    local state = state_of(meter)
    if state[USED] < meter[LIMIT] then
      return 0
    end
    local first = math.huge
    for _, stop in ipairs(state[ENDS]) do
      first = math.min(first, stop)
    end
    return first > now and first < math.huge and first - now or SLOT_WAIT
  end,
}

-- CHARGE: `amount` more, or less where it is negative, of what was admitted at `admitted`.
local CHARGE = {
  [RATE] = function(meter, amount)
    local used = math.min(MOST, math.max(0, used_of(meter) + amount * meter[TICKS]))
    keep(meter, { used, tick(meter) }, now + ceil(used, meter[LIMIT]) * meter[TICK])
  end,
  [CALENDAR] = function(meter, amount, admitted)
    local state = state_of(meter)
    local ordinal, start, stop = period_of(meter, admitted)
    if is_current(state, ordinal, admitted) then
      state[USED] = math.min(MOST, math.max(0, state[USED] + amount))
    elseif ordinal == state[BEFORE_ORDINAL] then
      state[BEFORE] = math.min(MOST, math.max(0, state[BEFORE] + amount))
      local owed = math.max(0, state[BEFORE] - (state[ORDINAL] - ordinal) * meter[LIMIT])
      state[USED], state[OWED] = math.max(0, state[USED] + owed - state[OWED]), owed
    end -- older: what is two periods ago is in the records alone
    keep(meter, state, stop + (ceil(state[USED], meter[LIMIT]) + 1) * (stop - start))
  end,
  [TOTAL] = function(meter, amount)
    local state = state_of(meter)
    state[USED] = math.min(MOST, math.max(0, state[USED] + amount))
    keep(meter, state, FOREVER)
  end,
}

-- Note that what was admitted then is counted: the books of the time from BEGUN to LAST are this meter's.
local function note(meter, admitted)
  local state = state_of(meter)
  if meter[KEEPING] == CALENDAR and is_current(state, (period_of(meter, admitted)), admitted) then
    state[BEGUN], state[LAST] = math.min(state[BEGUN], admitted), math.max(state[LAST], admitted)
  elseif meter[KEEPING] == TOTAL then
    state[TOTAL_BEGUN] = math.min(state[TOTAL_BEGUN], admitted)
    state[TOTAL_LAST] = math.max(state[TOTAL_LAST], admitted)
  end
end

local function occupy(meter, stop)
  local state = state_of(meter)
  state[USED] = state[USED] + 1
  if #state[ENDS] < MOST_ENDS then
    table.insert(state[ENDS], stop)
  end
  keep(meter, state, now)
end

local function vacate(meter, stop)
  local state = state_of(meter)
  state[USED] = math.max(0, state[USED] - 1)
  for i, other in ipairs(state[ENDS]) do
    if other == stop then
      table.remove(state[ENDS], i)
      break
    end
  end
  keep(meter, state, now)
end

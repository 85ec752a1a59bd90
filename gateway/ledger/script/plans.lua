
-- Levels and plans: what is read before an operation, and written after the last ---------------------------------------

local plans, levels = {}, {}

local function load_level(id)
  local level = levels[id]
  if not level then
    level = { id = id, key = stem .. ':level:' .. id, values = {}, states = {}, changed = {}, full = 0 }
    local flat = redis.call('HGETALL', level.key)
    for i = 1, #flat, 2 do
      level.values[flat[i]] = flat[i + 1]
    end
    levels[id] = level
  end
  return level
end

-- Packed, a plan is {account, {{level id, {meter, ...}}, ...}}, a meter {measure, keeping, field, limit, burst, ticks,
-- tick, enforce, periods}, its periods {ordinal, start, end and start of the next, its ordinal, its end}. Here it is the list of all meters, each knowing its
-- level. States are read now, so that what cannot be read fails before anything is changed.
local function plan_of(packed)
  if not plans[packed] then
    local told = cmsgpack.unpack(packed)
    local plan = { account = cmsgpack.pack(told[1]), model = told[1][3] }
    for _, entry in ipairs(told[2]) do
      for _, meter in ipairs(entry[2]) do
        meter.level = load_level(entry[1])
        if meter.level.values[meter[FIELD]] then
          state_of(meter)
        end
        plan[#plan + 1] = meter
      end
    end
    plans[packed] = plan
  end
  return plans[packed]
end

-- Whether the periods that the plan tells are not those of now.
local function stale(plan)
  for _, meter in ipairs(plan) do
    local periods = meter[PERIODS]
    if meter[KEEPING] == CALENDAR and (now < periods[2] or now >= periods[5]) then
      return true
    end
  end
  return false
end

-- What is used of every meter that was looked at.
local function touched()
  local told = {}
  for _, plan in pairs(plans) do
    for _, meter in ipairs(plan) do
      if meter[KEEPING] == CALENDAR then
        roll(meter)
      end
      told[#told + 1], told[#told + 2], told[#told + 3] = meter.level.id, meter[FIELD], used_of(meter)
    end
  end
  return told
end

local function write_levels()
  for _, level in pairs(levels) do
    if next(level.changed) then
      local fields = {}
      for field in pairs(level.changed) do
        fields[#fields + 1] = field
        fields[#fields + 1] = cmsgpack.pack(level.states[field])
      end
      -- A level is forgotten only long after it is as if new; the day on top spares a command in most calls.
      local keep = math.min(math.max(level.full, now) + 2 * DAY, FOREVER)
      local extend = tonumber(level.values.expires or '0') < keep
      if extend then
        keep = keep + DAY
        fields[#fields + 1], fields[#fields + 2] = 'expires', text(keep)
      end
      redis.call('HSET', level.key, unpack(fields))
      if extend then
        redis.call('PEXPIREAT', level.key, text(floor(keep, 1000)))
      end
    end
  end
end

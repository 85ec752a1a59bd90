
-- One call -----------------------------------------------------------------------------------------------------------------

local HANDLERS = { [ADMIT] = admit, [SETTLE] = settle, [GROW] = grow, [BEAT] = beat }

-- Say that this gateway lives, and the number of the last reservation it asks for; return that.
local function show(operations)
  local before, called = last_asked()
  local last = before
  for _, operation in ipairs(operations) do
    if operation[1] == ADMIT then
      last = math.max(last, tonumber(operation[2], 16))
    end
  end
  if last > before then
    redis.call('HSET', stem .. ':gateways', gateway, text(now), gateway .. '#', text(last))
  else
    redis.call('HSET', stem .. ':gateways', gateway, text(now))
  end
  if not lives(called) then
    redis.call('DEL', living_key) -- nobody has counted us, and no share may be of fewer than live
  end
  return last
end

local function run()
  local operations, answers = cmsgpack.unpack(ARGV[2]), {}
  read_clock()
  if last_asked() < tonumber(ARGV[4]) then
    error({ err = 'BEHIND' })
  end
  local last = show(operations)
  fetch(operations)
  for i, operation in ipairs(operations) do
    local ok, answer = pcall(HANDLERS[operation[1]], operation)
    answers[i] = ok and answer or { FAILED, message(answer) }
  end
  local told, live = {}, 0
  if ARGV[3] == '1' then
    told, live = touched(), living()
  end
  write_levels()
  write_reservations()
  write_records()
  return answers, told, last, live
end

local ok, answers, told, last, live = pcall(run)
return cmsgpack.pack(ok and { now, answers, told, last, live } or { message(answers) })

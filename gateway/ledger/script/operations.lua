
-- Admission, settlement, growth ------------------------------------------------------------------------------------------

local function amounts_of(input, output, money)
  return { [REQUESTS] = 1, [SLOT] = 1, [INPUT] = input, [OUTPUT] = output, [TOKENS] = input + output, [MONEY] = money }
end

-- The answer to whoever wants more: the outcome, which meter refuses and for how long, and of those that count requests
-- and of those that count tokens the meter with the least left, and of all the one with the smallest share left, each
-- with what is used of it. A meter is told as its place in the plan, 0 for none.
local function standing(outcome, plan, refusing, wait, shadows)
  local requests, tokens, tightest = 0, 0, 0
  local requests_used, tokens_used, tightest_used = 0, 0, 0
  local requests_left, tokens_left, share_left = math.huge, math.huge, math.huge
  for place, meter in ipairs(plan) do
    if meter[ENFORCE] then
      local used = used_of(meter)
      local left = remaining(meter, used)
      local share = left / (meter[KEEPING] == RATE and meter[BURST] or meter[LIMIT])
      if share < share_left then
        tightest, tightest_used, share_left = place, used, share
      end
      if meter[MEASURE] == REQUESTS and left < requests_left then
        requests, requests_used, requests_left = place, used, left
      elseif meter[MEASURE] == TOKENS and left < tokens_left then
        tokens, tokens_used, tokens_left = place, used, left
      end
    end
  end
  return { outcome, refusing, wait, requests, requests_used, tokens, tokens_used, tightest, tightest_used, shadows }
end

-- Which enforced meter keeps these amounts out the longest: its outcome (DONE: none does), its place, the wait; and the
-- places of the shadows that would. What never fits goes before what is spent, and that before what takes time.
local function verdict(plan, amounts, admitted)
  local outcome, refusing, longest, shadows = DONE, 0, 0, {}
  for place, meter in ipairs(plan) do
    local amount = amounts[meter[MEASURE]]
    if amount > 0 then
      local wait, never = WAIT[meter[KEEPING]](meter, amount, admitted)
      if wait > 0 and not meter[ENFORCE] then
        shadows[#shadows + 1] = place
      elseif wait > longest or (never == TOO_LARGE and outcome == SPENT) then
        outcome, refusing, longest = never or REFUSED, place, wait
      end
    end
  end
  return outcome, refusing, longest < math.huge and longest or 0, shadows
end

-- Charge meters that count money or tokens by differences of a reservation that was admitted then.
local function charge(plan, amounts, admitted)
  for _, meter in ipairs(plan) do
    local amount = amounts[meter[MEASURE]]
    if amount ~= 0 and meter[MEASURE] ~= SLOT and meter[MEASURE] ~= REQUESTS then
      CHARGE[meter[KEEPING]](meter, amount, admitted)
    end
  end
end

-- {ADMIT, id, forced, input, output, money, microseconds it will take, plan} -> as `standing` tells, or {STALE}.
-- Forced: false, or when it was admitted, by this store or in its absence, whatever the meters say.
local function admit(operation)
  local _, id, forced, input, output, money, takes, argument = unpack(operation)
  local plan = plan_of(ARGV[argument])
  if reservation_of(id) or (forced and asked_before(id)) then
    return standing(DONE, plan, 0, 0, {})
  elseif not forced and stale(plan) then
    return { STALE }
  end
  for _, meter in ipairs(plan) do
    if meter[KEEPING] == CALENDAR then
      roll(meter)
    end
  end
  local amounts, shadows, admitted = amounts_of(input, output, money), {}, forced and math.min(forced, now) or now
  if not forced then
    local outcome, refusing, wait, would = verdict(plan, amounts, admitted)
    if outcome ~= DONE then
      return standing(outcome, plan, refusing, wait, {})
    end
    shadows = would
  end
  local over = {}
  for _, place in ipairs(shadows) do
    over[place] = true
  end
  for place, meter in ipairs(plan) do
    if meter[MEASURE] == SLOT then
      occupy(meter, admitted + takes)
    elseif not (over[place] and meter[MEASURE] == REQUESTS) then -- a refused call would not have been counted
      CHARGE[meter[KEEPING]](meter, amounts[meter[MEASURE]], admitted)
      note(meter, admitted)
    end
  end
  local head = { input, output, money, 0, admitted, admitted + takes }
  reservations[id] = { head = head, plan = ARGV[argument], changed = true }
  return standing(DONE, plan, 0, 0, shadows)
end

-- Replace what a reservation set aside by what was used, and free its slots.
local function replace(one, used)
  local head, plan = one.head, plan_of(one.plan)
  charge(plan, amounts_of(used[1] - head[1], used[2] - head[2], used[5] - head[3]), head[ADMITTED])
  for _, meter in ipairs(plan) do
    if meter[MEASURE] == SLOT then
      vacate(meter, head[STOP])
    end
  end
  return plan
end

local function book_wasted(id, wasted, admitted, plan, ending)
  local platform = cmsgpack.pack({ '', 'platform', plan.model })
  book(id, PLATFORM, admitted, { wasted[1], wasted[2], 0, 0, wasted[3] }, true, platform, '', ending)
end

-- A settlement of what had expired: by difference to what was charged then, which may have been of no deployment.
local function correct(id, booked, used, estimated, deployment, ending, wasted)
  local raw = redis.call('HGET', expired_key, id)
  if not raw then
    return asked_before(id) and { REFUSED } or { UNKNOWN }
  end
  local one = unpack_reservation(raw)
  local charged, plan, name = one.head, plan_of(one.plan), gateway .. '-' .. id
  local admitted, less, difference = charged[6], {}, {}
  for i = 1, 5 do
    less[i], difference[i] = -charged[i], used[i] - charged[i]
  end
  charge(plan, amounts_of(difference[1], difference[2], difference[5]), admitted)
  record(name, CORRECTED, admitted, difference, estimated, plan.account, deployment, ending)
  sum_up(admitted, plan.account, charged[7], -1, less, less[1] + less[2])
  sum_up(admitted, plan.account, deployment, booked and 1 or 0, used, estimated and used[1] + used[2] or 0)
  if wasted then
    book_wasted(name, wasted, admitted, plan, ending)
  end
  redis.call('HDEL', expired_key, id)
  return { DONE }
end

-- {SETTLE, id, booked, prompt, completion, cached, reasoning, money, estimated, deployment,
-- {outcome, request id, replica}, {wasted prompt, completion, money} or false}
--   -> {DONE}, {REFUSED} if it was settled before, {UNKNOWN} if nothing is known of it
local function settle(operation)
  local _, id, booked, prompt, completion, cached, reasoning, money, estimated, deployment, ending, wasted =
    unpack(operation)
  local used = { prompt, completion, cached, reasoning, money }
  local one = reservation_of(id)
  if not one then
    return correct(id, booked, used, estimated, deployment, ending, wasted)
  end
  local plan, admitted, name = replace(one, used), one.head[ADMITTED], gateway .. '-' .. id
  if booked then
    book(name, SETTLED, admitted, used, estimated, plan.account, deployment, ending)
  end
  if wasted then
    book_wasted(name, wasted, admitted, plan, ending)
  end
  reservations[id] = false
  return { DONE }
end

-- {GROW, id, step, output, money, forced} -> as `standing` tells, of the reservation's plan; {REFUSED, 0} if it is not open
local function grow(operation)
  local _, id, step, output, money, forced = unpack(operation)
  local one = reservation_of(id)
  if not one then
    return { REFUSED, 0 }
  end
  local head, plan = one.head, plan_of(one.plan)
  if step <= head[STEP] then
    return standing(DONE, plan, 0, 0, {})
  end
  local amounts = { [REQUESTS] = 0, [SLOT] = 0, [INPUT] = 0, [OUTPUT] = output, [TOKENS] = output, [MONEY] = money }
  local outcome, refusing, wait = verdict(plan, amounts, head[ADMITTED])
  if outcome ~= DONE and not forced then
    return standing(outcome, plan, refusing, wait, {})
  end
  charge(plan, amounts, head[ADMITTED])
  head[2], head[3], head[STEP], one.changed = head[2] + output, head[3] + money, step, true
  return standing(DONE, plan, 0, 0, {})
end

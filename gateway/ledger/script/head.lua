--[[
The ledger's one script: a list of operations on one organization, in order, in one call. Its parts follow each other
as one text (head, meters, plans, records, operations, leases, run).

Law: whole numbers below 2^53; a number becomes text only through text(); the clock never steps back per organization;
every operation may come twice and counts once; a refusal changes nothing; one operation's error fails only itself.
The arithmetic has a twin in policies/buckets.py.

KEYS[1]  sw:{organization}, the stem of every key touched, so that all of them live in one slot
ARGV[1]  the calling gateway's id
ARGV[2]  msgpack: the operations, each an array that starts with its code
ARGV[3]  '1' where the caller wants to know what is used of every meter touched, and how many gateways live
ARGV[4]  the number of the last reservation that this store is known to have been asked for by the caller
ARGV[5+] msgpack: plans and counts that operations name by their index here
Returns  msgpack: {now_us, {answer, ...}, {level id, field, used, ...}, the number for ARGV[4] from now on, how many
         gateways live} or {error}.
         An answer starts with its outcome; {-1, error} is a failed one. The error 'BEHIND' says that the store has lost
         what it had acknowledged, and that nothing was done.

<stem>:clock                   the latest time seen, in microseconds
<stem>:gateways                gateway -> time of its last call, gateway# -> number of the last reservation it asked for
<stem>:living                  how many gateways lived when somebody looked last; expires after 5 s
<stem>:level:<id>              field -> msgpack: the state of one meter; expires
<stem>:reservations:<gateway>  id -> msgpack: {input, output, money, step, admitted, ends}, then its plan
<stem>:counts:<gateway>        msgpack: id -> {prompt, completion, cached, reasoning, money, deployment, replica}, at the
                               last beat
<stem>:expired:<gateway>       id -> msgpack: what a lost gateway's reservation was charged, when, of which deployment;
                               then its plan; # as above
<stem>:records                 stream: what was settled
<stem>:hour:<unix hour>        account .. deployment .. letter -> amount: what was settled, by the hour of its admission;
                               all replicas of a backend are one deployment here, or there were no end of sums
]]

local stem, gateway = KEYS[1], ARGV[1]

local ADMIT, SETTLE, GROW, BEAT = 1, 2, 3, 4
local REFUSED, DONE, TOO_LARGE, SPENT, STALE, UNKNOWN, FAILED = 0, 1, 2, 3, 4, 5, -1

local MOST = 9007199254740991
local FOREVER = 8000000000000000 -- the year 2223
local SECOND, HOUR, DAY = 1000000, 3600000000, 86400000000

local now

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

local function floor(a, b)
  return (a - math.fmod(a, b)) / b
end

local function read_clock()
  local time = redis.call('TIME')
  now = tonumber(time[1]) * SECOND + tonumber(time[2])
  local before = tonumber(redis.call('SET', stem .. ':clock', text(now), 'GET') or '0')
  if before > now then
    now = before
    redis.call('SET', stem .. ':clock', text(now))
  end
end

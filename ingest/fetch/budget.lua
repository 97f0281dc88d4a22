--[[
Leases the next send slots of a host, for all workers and runs that share it.

A slot is a moment at which one send may leave. Each is the earliest moment that keeps every limit
of every run at the host, counted over all slots that were leased before:
  every    so many µs after the slot before it
  windows  n slots earlier lies at least `span` µs back
  batches  after n slots, none of them `pause` µs after the other, `pause` µs of silence
  quotas   the period's pool still holds a send; pools are filled from the database (ingest.hosts)
           and no slot lies within GUARD of a period's turn, where the server's clock may differ
Only slots that begin within HORIZON are leased, in blocks of about BLOCK of what the limits sustain:
a slot that is far away is nobody's, and who wants it comes back then.

What Redis does not know it takes for used: where the state was lost (another server process, or
data that are gone) nothing is leased before the caller has said until when the host may have been
in use, and then as if the latest possible send had left nothing of any limit.

KEYS  state (hash), limits (hash: member → expiry in s, limits), log of the latest slots (list)
ARGV  JSON: member, limits {member: text}, kept (s),
      periods {per: {id, from, to}}, and where there is something to tell: want (0: only look),
      used_until (µs), allotted and unused {period: sends}, sent, held_for (µs), pace, pace_at,
      learned (limits of the learned rate, or false)
Gives JSON: is_unknown; or is_limited, granted (a counter of the host), held (µs), pace, and for
      a host with limits one of
      slots (µs from now), wait (µs) with reason, allot (a period, with limit)
Times are µs since the epoch, beyond the 14 digits that cjson writes: differences leave the script.
]]
local HORIZON, BLOCK, GUARD, MOST = 1000000, 100000, 2000000, 500
-- How long a run without limits may not have heard of the first limit at its host.
local HEARING = 1200000

local state, limits, log = KEYS[1], KEYS[2], KEYS[3]
local ask = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local seconds = tonumber(clock[1])
local now = seconds * 1000000 + clock[2]

local function text(number) return string.format('%.0f', number) end
local function get(name) return tonumber(redis.call('HGET', state, name) or 0) end
local function set(name, value) redis.call('HSET', state, name, text(value)) end

-- 1. Is this the state as the last caller left it?
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or 'unnamed'
if redis.call('HGET', state, 'server') ~= server then
    if not ask.used_until then return '{"is_unknown": true}' end
    local last = math.min(ask.used_until, now + HORIZON)
    redis.call('DEL', state, log)
    redis.call('HSET', state, 'server', server)
    set('last', last)
    set('since', last)
end

-- The clock was set back where a slot lies farther ahead than any is leased: all that is noted moves
-- with it, or nothing would leave until the clock is there again.
local ahead = get('last') - (now + HEARING)
if ahead > 0 then
    for _, name in ipairs({'last', 'since', 'held'}) do set(name, get(name) - ahead) end
    local sent = redis.call('LRANGE', log, 0, -1)
    redis.call('DEL', log)
    for _, at in ipairs(sent) do redis.call('RPUSH', log, text(at - ahead)) end
end

-- 2. What the caller tells.
for period, sends in pairs(ask.allotted or {}) do
    redis.call('HINCRBY', state, 'left ' .. period, sends)
end
for period, sends in pairs(ask.unused or {}) do
    if redis.call('HEXISTS', state, 'left ' .. period) == 1 then
        redis.call('HINCRBY', state, 'left ' .. period, sends)
    end
end
if ask.held_for then set('held', math.max(get('held'), now + ask.held_for)) end
local pace = nil
local told_at = get('pace at ' .. ask.member)
if ask.pace and ask.pace_at >= told_at then
    redis.call('HSET', state, 'pace ' .. ask.member, ask.pace, 'pace at ' .. ask.member, ask.pace_at)
    if ask.learned then
        redis.call('HSET', limits, ask.member .. ' learned', text(seconds + ask.kept) .. ' ' .. ask.learned)
    else
        redis.call('HDEL', limits, ask.member .. ' learned')
    end
elseif told_at > (ask.pace_at or 0) then
    pace = redis.call('HGET', state, 'pace ' .. ask.member) or nil
end
local arrivals = 0
for member, own in pairs(ask.limits) do
    if own ~= '{}' and redis.call('HEXISTS', limits, member) == 0 then arrivals = arrivals + 1 end
    redis.call('HSET', limits, member, text(seconds + ask.kept) .. ' ' .. own)
end

-- 3. The limits of all runs at the host, the smallest of each kind.
local every, windows, batches, quotas = 0, {}, {}, {}
local has_open_member, is_limited = false, false
local entries = redis.call('HGETALL', limits)
for index = 1, #entries, 2 do
    local expiry, own = string.match(entries[index + 1], '^(%d+) (.*)$')
    if tonumber(expiry) < seconds then
        redis.call('HDEL', limits, entries[index])
    elseif own == '{}' then
        has_open_member = true
    else
        own = cjson.decode(own)
        is_limited = true
        if own.every and own.every > every then every = own.every end
        if own.window then windows[own.window[1] .. ' ' .. text(own.window[2])] = own.window end
        if own.batch then batches[own.batch[1] .. ' ' .. text(own.batch[2])] = own.batch end
        if own.quota then
            local least = quotas[own.quota[2]]
            if not least or own.quota[1] < least then quotas[own.quota[2]] = own.quota[1] end
        end
    end
end
if arrivals > 0 and has_open_member then
    set('last', math.max(get('last'), now + HEARING))
    set('since', math.max(get('since'), now + HEARING))
end

-- 4. The slots.
local last, since, held = get('last'), get('since'), get('held')
local answer = {is_limited = is_limited, held = math.max(0, held - now), pace = pace}
local count = redis.call('HINCRBY', state, 'granted', ask.sent or 0)
local kept = 60000000

local sustained, longest = every, 0
for _, window in pairs(windows) do
    sustained = math.max(sustained, window[2] / window[1])
    longest = math.max(longest, window[1])
    kept = math.max(kept, window[2] + 60000000)
end
for _, batch in pairs(batches) do
    sustained = math.max(sustained, batch[2] / batch[1])
    kept = math.max(kept, batch[2] + 60000000)
end
if longest == 0 and last > 0 then
    -- Without a window there is no log: one that comes later must take all until now for used.
    redis.call('DEL', log)
    since = math.max(since, last)
end

local room = math.max(1, math.min(MOST, math.floor(BLOCK / math.max(sustained, 1))))
local at, reason, ends = math.max(now, held), 'hold', nil
if held <= now then reason = 'rate' end
for per, most in pairs(quotas) do
    local period = ask.periods[per]
    kept = math.max(kept, period.to - now)
    ends = math.min(ends or period.to, period.to)
    if now >= period.to - GUARD then
        at, reason = math.max(at, period.to + GUARD), 'quota'
    else
        if at < period.from + GUARD then at, reason = period.from + GUARD, 'quota' end
        local left = get('left ' .. period.id)
        if left < 1 and ask.want > 0 then
            answer.allot, answer.limit = per, most
        end
        room = math.min(room, left)
    end
end
if ask.want > 0 and is_limited and not answer.allot then
    local slots = {}
    while #slots < room do
        if last + every > at then at, reason = last + every, 'rate' end
        for _, window in pairs(windows) do
            local nth = redis.call('LINDEX', log, -window[1])
            local free = (nth and tonumber(nth) or since) + window[2]
            if free > at then at, reason = free, 'window' end
        end
        for name, batch in pairs(batches) do
            local sent = redis.call('HGET', state, 'batch ' .. name)
            if at < last + batch[2] and (not sent or tonumber(sent) >= batch[1]) then
                at, reason = last + batch[2], 'batch'
            end
        end
        if at > now + HORIZON or (ends and at >= ends - GUARD) then break end
        for name, batch in pairs(batches) do
            if at >= last + batch[2] then set('batch ' .. name, 0) end
            redis.call('HINCRBY', state, 'batch ' .. name, 1)
        end
        if longest > 0 then
            redis.call('RPUSH', log, text(at))
            if redis.call('LLEN', log) > longest then
                redis.call('LTRIM', log, -longest, -1)
                since = tonumber(redis.call('LINDEX', log, 0))
            end
        end
        last = at
        slots[#slots + 1] = at - now
    end
    for per, _ in pairs(quotas) do
        if #slots > 0 then
            redis.call('HINCRBY', state, 'left ' .. ask.periods[per].id, -#slots)
        end
    end
    count = redis.call('HINCRBY', state, 'granted', #slots)
    if #slots > 0 then
        answer.slots = slots
    else
        answer.wait, answer.reason = at - now, reason
    end
end
set('last', last)
set('since', since)
answer.granted = count
local life = math.ceil((math.max(last - now, 0) + kept + every) / 1000)
redis.call('PEXPIRE', state, life)
redis.call('PEXPIRE', log, life)
redis.call('EXPIRE', limits, ask.kept + 60)
return cjson.encode(answer)

"""What the Redis adapters run inside the server, so that looking, fencing and moving are one act.

A script looks first and refuses by what it returns; from its first write on nothing in it can fail. The first write is
a DEL, which a full server takes too, and after which it takes the rest of the script.

Source: https://redis.io/docs/latest/develop/programmability/eval-intro/
"""

__all__ = ["EVICT", "FENCE", "HEAD", "MARK", "PARK", "STATE", "UNPARK"]

_ADMIT = """
local highest = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) < highest then return {'stale', tostring(highest)} end
local function admit()
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[1], ARGV[1])
end
local function done()
    redis.call('SET', KEYS[2], '1', 'EX', 604800)
    return {'done'}
end
local function again()
    admit()
    return redis.call('EXISTS', KEYS[2]) == 1
end
"""
"""KEYS: the fence, the idempotency key. ARGV: the token."""

FENCE = _ADMIT + "admit() return {'done'}"
MARK = _ADMIT + "admit() return done()"

EVICT = (
    _ADMIT
    + """
if again() then return {'done'} end
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('INCR', KEYS[3])
return done()
"""
)
"""KEYS: fence, key, the count of evictions, then what is removed."""

_LOOK = """
local function fields(flat)
    local found = {}
    for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
    return found
end
local function kind(key) return redis.call('TYPE', key).ok end
local function groups(key, name)
    local all, found = redis.call('XINFO', 'GROUPS', key), nil
    for _, one in ipairs(all) do
        local group = fields(one)
        if group['name'] == name then found = group end
    end
    return found, #all
end
local function parked(key)
    local names, is = {}, kind(key)
    if is == 'hash' then names = redis.call('HKEYS', key) end
    if is == 'stream' then
        for _, one in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 1001)) do
            names[#names + 1] = one[2][2]
        end
    end
    return names, is
end
local function taken(key)
    local found = {}
    for _, name in ipairs(parked(key)) do found[name] = true end
    return found
end
local function walk(key, side, most, bytes, used, each)
    local size = 0
    for i = 0, most - 1 do
        local payload = redis.call('LINDEX', key, side == 'left' and i or -1 - i)
        if not payload or size > bytes then return end
        size = size + #payload
        local base = redis.sha1hex(payload)
        local name, copy = base, 1
        while used[name] do copy = copy + 1 name = base .. '~' .. copy end
        used[name] = true
        if each(name, payload) then return end
    end
end
"""

STATE = (
    _LOOK
    + """
local names, kept = parked(KEYS[2])
local is = kind(KEYS[1])
if is == 'list' then return {is, kept, redis.call('LLEN', KEYS[1]), -1, -1, names} end
if is ~= 'stream' then return {is, kept, 0, -1, -1, names} end
local group = groups(KEYS[1], ARGV[1])
if not group then return {'no group', kept, 0, 0, 0, names} end
local depth = group['lag'] or #redis.call('XRANGE', KEYS[1], '(' .. group['last-delivered-id'], '+', 'COUNT', 10000)
return {is, kept, depth, group['pending'], group['consumers'], names}
"""
)
"""KEYS: the queue, its parked messages. ARGV: the group."""

HEAD = (
    _LOOK
    + """
local most, bytes, found = tonumber(ARGV[2]), tonumber(ARGV[3]), {}
local function show(name, again, size, text) found[#found + 1] = {name, again, size, string.sub(text, 1, 240)} end
if kind(KEYS[1]) == 'list' then
    walk(KEYS[1], ARGV[4], most, bytes, taken(KEYS[2]), function(name, payload) show(name, 0, #payload, payload) end)
    return found
end
if kind(KEYS[1]) ~= 'stream' then return found end
local read = 0
local function entry(id, again)
    local one = redis.call('XRANGE', KEYS[1], id, '+', 'COUNT', 1)[1]
    if not one or (again >= 0 and one[1] ~= id) then return one end
    local size, words = 0, {}
    for i = 1, #one[2], 2 do
        size = size + #one[2][i] + #one[2][i + 1]
        words[#words + 1] = string.sub(one[2][i], 1, 240) .. '=' .. string.sub(one[2][i + 1], 1, 240)
    end
    read = read + size
    show(one[1], again > 1 and 1 or 0, size, table.concat(words, ' '))
    return one
end
local group = groups(KEYS[1], ARGV[1])
if not group then return found end
for _, one in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', most)) do
    if read <= bytes then entry(one[1], one[4]) end
end
local last = group['last-delivered-id']
while last and #found < most and read <= bytes do
    local one = entry('(' .. last, -1)
    last = one and one[1]
end
return found
"""
)
"""KEYS: the queue, its parked messages. ARGV: the group, how many, bytes to read at most, the side of the head."""

PARK = (
    _ADMIT
    + _LOOK
    + """
local is, used, repeated = kind(KEYS[3]), taken(KEYS[4]), again()
if used[ARGV[2]] or repeated then return {'done'} end
if #parked(KEYS[4]) >= 1000 then return {'full'} end
if is == 'list' then
    local found
    walk(KEYS[3], ARGV[6], tonumber(ARGV[4]), tonumber(ARGV[5]), used, function(name, payload)
        if name == ARGV[2] then found = payload end
        return found
    end)
    if not found then return {'gone'} end
    redis.call('HSET', KEYS[4], ARGV[2], found)
    redis.call('LREM', KEYS[3], ARGV[6] == 'left' and 1 or -1, found)
    return done()
end
if is ~= 'stream' then return {'gone'} end
local group, readers = groups(KEYS[3], ARGV[3])
if not group then return {'gone'} end
if readers > 1 then return {'shared'} end
local id = redis.call('HGET', KEYS[5], ARGV[2]) or ARGV[2]
local entry = redis.call('XRANGE', KEYS[3], id, id)[1]
local pending = #redis.call('XPENDING', KEYS[3], ARGV[3], id, id, 1) > 0
local ahead = redis.call('XRANGE', KEYS[3], '(' .. group['last-delivered-id'], id, 'COUNT', 1)[1]
if not entry or not (pending or ahead) then return {'gone'} end
redis.call('XADD', KEYS[4], '*', 'rbkit-id', ARGV[2], unpack(entry[2]))
redis.call('XACK', KEYS[3], ARGV[3], id)
redis.call('XDEL', KEYS[3], id)
redis.call('HDEL', KEYS[5], ARGV[2])
return done()
"""
)
"""KEYS: fence, key, queue, parked, moved. ARGV: token, message, group, reach, bytes, the side of the head."""

UNPARK = (
    _ADMIT
    + _LOOK
    + """
if again() then return {'done'} end
if kind(KEYS[4]) == 'hash' then
    local payload = redis.call('HGET', KEYS[4], ARGV[2])
    if payload then
        redis.call(ARGV[6] == 'left' and 'RPUSH' or 'LPUSH', KEYS[3], payload)
        redis.call('HDEL', KEYS[4], ARGV[2])
    end
    return done()
end
for _, one in ipairs(kind(KEYS[4]) == 'stream' and redis.call('XRANGE', KEYS[4], '-', '+') or {}) do
    if one[2][2] == ARGV[2] then
        local id = redis.call('XADD', KEYS[3], '*', unpack(one[2], 3))
        redis.call('XDEL', KEYS[4], one[1])
        redis.call('HSET', KEYS[5], ARGV[2], id)
        redis.call('EXPIRE', KEYS[5], 2592000)
    end
end
return done()
"""
)
"""KEYS and ARGV as for PARK."""

"""The operations of the event store inside Redis: Lua scripts, each of them atomic.

A script may be sent again when its answer was lost. Then it changes nothing more and returns the same answer. Times are
those of the Redis server, in seconds. All keys begin with ``sluice:``:

    stream:NAME   hash: epoch, head, volatile, expires (present only after ``expire`` with a time)
    events:NAME   stream of the retained events, with ids OFFSET-0 and the fields d(ata) and i(d)
    ids:NAME      hash: id of a retained event -> offset
    readers:NAME  sorted set: processes that subscribe to the stream, by the end of their subscription
    marked:NAME   set of the readers that have a mark on the stream
    marks:READER  hash: stream -> offset
    due           sorted set: streams that will be deleted, by the time
    room:ROOM     sorted set: users, by the end of their presence
    there:LENGTH:ROOM:USER  sorted set: the user's connections in the room, by the end of their presence
    turn:LENGTH:ROOM:USER   the call with which the user entered or left
    lease:NAME    string: its holder
"""

import hashlib
import secrets

# Seconds that an unused volatile stream, or one without events, is retained unless it expires. This is the default
# lifetime of results, because the events of such streams are about results.
_UNCLAIMED = 86_400.0

_COMMON = """
local function key(kind, name) return 'sluice:' .. kind .. ':' .. name end

local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end

-- A stream without a promise to keep it is deleted when it has not been used for so long.
local function unclaimed(name, seconds) redis.call('ZADD', 'sluice:due', now() + seconds, name) end

-- What the stream is: epoch, head, whether volatile, whether it expires. One that does not exist begins.
local function begin(name, epoch, seconds)
    local found = redis.call('HMGET', key('stream', name), 'epoch', 'head', 'volatile', 'expires')
    if found[1] then return found[1], tonumber(found[2]), found[3] == '1', found[4] end
    redis.call('UNLINK', key('events', name), key('ids', name))
    redis.call('HSET', key('stream', name), 'epoch', epoch, 'head', 0)
    unclaimed(name, seconds)
    return epoch, 0, false, false
end
"""

_APPEND = """
local name, data, id, durable, keep, channel = ARGV[1], ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7]), ARGV[8]
local epoch, head, volatile, expires = begin(name, ARGV[2], ARGV[3])
local events, ids = key('events', name), key('ids', name)
if head == 0 then volatile = not durable end
if volatile and (id:sub(1, 1) == '=' or ARGV[9]) then return -1 end
local known = redis.call('HGET', ids, id)
if known then return tonumber(known) end
for each = 9, #ARGV do
    if redis.call('HEXISTS', ids, ARGV[each]) == 1 then return 0 end
end
if head == 0 and volatile then redis.call('HSET', key('stream', name), 'volatile', 1) end
if not expires then
    if volatile then unclaimed(name, ARGV[3]) elseif head == 0 then redis.call('ZREM', 'sluice:due', name) end
end
head = head + 1
redis.call('HSET', key('stream', name), 'head', head)
redis.call('HSET', ids, id, head)
redis.call('XADD', events, head .. '-0', 'd', data, 'i', id)
local last = head - keep
if last > 0 then
    for _, old in ipairs(redis.call('XRANGE', events, '-', last .. '-0')) do redis.call('HDEL', ids, old[2][4]) end
    redis.call('XTRIM', events, 'MINID', (last + 1) .. '-0')
end
redis.call('PUBLISH', channel, epoch .. ' ' .. head .. ' ' .. data)
return head
"""

# Returns the epoch and the head. A process that is named counts as a reader of the stream for this many seconds.
_POSITION = """
local name, process, seconds = ARGV[1], ARGV[4], ARGV[5]
local epoch, head = begin(name, ARGV[2], ARGV[3])
if process ~= '' then
    redis.call('ZADD', key('readers', name), now() + seconds, process)
    redis.call('PEXPIRE', key('readers', name), math.ceil(seconds * 1000))
end
return {epoch, head}
"""

_STOP_READING = "return redis.call('ZREM', key('readers', ARGV[1]), ARGV[2])"

# Returns the epoch ('' when there is no such stream), the head, and of each event its id in Redis and its data.
_READ = """
local name = ARGV[1]
local found = redis.call('HMGET', key('stream', name), 'epoch', 'head')
local reply = {found[1] or '', tonumber(found[2] or 0)}
if found[1] then
    for _, event in ipairs(redis.call('XRANGE', key('events', name), ARGV[2], '+', 'COUNT', ARGV[3])) do
        reply[#reply + 1] = event[1]
        reply[#reply + 1] = event[2][2]
    end
end
return reply
"""

_MARK = """
local name, reader, offset = ARGV[1], ARGV[2], tonumber(ARGV[3])
if ARGV[4] and redis.call('HEXISTS', key('marks', reader), name) == 0 then return 0 end
local head = tonumber(redis.call('HGET', key('stream', name), 'head') or 0)
local before = tonumber(redis.call('HGET', key('marks', reader), name) or offset)
offset = math.max(math.min(offset, head), math.min(before, head))
redis.call('HSET', key('marks', reader), name, offset)
redis.call('SADD', key('marked', name), reader)
return {offset, head}
"""

_UNMARK = """
redis.call('SREM', key('marked', ARGV[1]), ARGV[2])
return redis.call('HDEL', key('marks', ARGV[2]), ARGV[1])
"""

_MARKS = """
local found, reply = redis.call('HGETALL', key('marks', ARGV[1])), {}
for each = 1, #found, 2 do
    reply[#reply + 1] = found[each]
    reply[#reply + 1] = tonumber(found[each + 1])
    reply[#reply + 1] = tonumber(redis.call('HGET', key('stream', found[each]), 'head') or 0)
end
return reply
"""

_EXPIRE = """
local name = ARGV[1]
local _, head, volatile = begin(name, ARGV[2], ARGV[3])
if ARGV[4] ~= '' then
    redis.call('HSET', key('stream', name), 'expires', 1)
    redis.call('ZADD', 'sluice:due', now() + ARGV[4], name)
    return 1
end
redis.call('HDEL', key('stream', name), 'expires')
if volatile or head == 0 then unclaimed(name, ARGV[3]) else redis.call('ZREM', 'sluice:due', name) end
return 0
"""

# Checks up to this many due streams, after skipping some. Returns how many it checked, and how many of them have
# readers and stay.
_SWEEP = """
local time, stay = now(), 0
local names = redis.call('ZRANGEBYSCORE', 'sluice:due', '-inf', time, 'LIMIT', ARGV[1], ARGV[2])
for _, name in ipairs(names) do
    redis.call('ZREMRANGEBYSCORE', key('readers', name), '-inf', time)
    if redis.call('EXISTS', key('readers', name)) == 1 then
        stay = stay + 1
    else
        for _, reader in ipairs(redis.call('SMEMBERS', key('marked', name))) do
            redis.call('HDEL', key('marks', reader), name)
        end
        redis.call('UNLINK', key('stream', name), key('events', name), key('ids', name), key('marked', name))
        redis.call('ZREM', 'sluice:due', name)
    end
end
return {#names, stay}
"""

_PRESENCE = """
local room, there, turn = key('room', ARGV[1]), key('there', ARGV[4]), key('turn', ARGV[4])
local user, connection, call, seconds, time = ARGV[2], ARGV[3], ARGV[5], ARGV[6], now()
local lasts = math.ceil(seconds * 1000)
redis.call('ZREMRANGEBYSCORE', room, '-inf', time)
redis.call('ZREMRANGEBYSCORE', there, '-inf', time)
local was = redis.call('ZSCORE', room, user)

-- Whether it is this call that brings the user in or out, or did when it was sent before.
local function mine(brings)
    if brings then redis.call('SET', turn, call, 'PX', lasts) end
    redis.call('PEXPIRE', room, lasts)
    redis.call('PEXPIRE', there, lasts)
    return (brings or redis.call('GET', turn) == call) and 1 or 0
end
"""

_ENTER = """
redis.call('ZADD', there, time + seconds, connection)
redis.call('ZADD', room, time + seconds, user)
return mine(not was)
"""

_LEAVE = """
redis.call('ZREM', there, connection)
local latest = redis.call('ZRANGE', there, -1, -1, 'WITHSCORES')
if latest[1] then
    redis.call('ZADD', room, latest[2], user)
    return 0
end
redis.call('ZREM', room, user)
return mine(was)
"""

_PRESENT = "return redis.call('ZRANGEBYSCORE', key('room', ARGV[1]), now(), '+inf')"

_HOLD = """
local lease, holder = key('lease', ARGV[1]), ARGV[2]
local held = redis.call('GET', lease)
if held and held ~= holder then return 0 end
redis.call('SET', lease, holder, 'PX', math.ceil(ARGV[3] * 1000))
return 1
"""

_RELEASE = """
local lease = key('lease', ARGV[1])
if redis.call('GET', lease) == ARGV[2] then redis.call('DEL', lease) end
return 1
"""

_CHECK = "return redis.call('SET', 'sluice:check', ARGV[1], 'PX', 60000)"

SCRIPTS = {
    "append": _COMMON + _APPEND,
    "position": _COMMON + _POSITION,
    "stop reading": _COMMON + _STOP_READING,
    "read": _COMMON + _READ,
    "mark": _COMMON + _MARK,
    "unmark": _COMMON + _UNMARK,
    "marks": _COMMON + _MARKS,
    "expire": _COMMON + _EXPIRE,
    "sweep": _COMMON + _SWEEP,
    "enter": _COMMON + _PRESENCE + _ENTER,
    "leave": _COMMON + _PRESENCE + _LEAVE,
    "present": _COMMON + _PRESENT,
    "hold": _COMMON + _HOLD,
    "release": _COMMON + _RELEASE,
    "check": _CHECK,
}
# The hash by which Redis knows a loaded script.
DIGESTS = {name: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for name, script in SCRIPTS.items()}


def begin_arguments(stream: str) -> tuple[str, str, float]:
    """Returns the first arguments of every script that may start a stream: its name, epoch and lifetime."""
    return stream, secrets.token_hex(8), _UNCLAIMED

"""
The scripts that run in Redis.

All keys of a cache are in one slot, so a script can use all of them in a cluster, too. A script is
atomic: no other command runs in between, and the append-only file and replicas get all of what it
has written, or nothing.

`master_replid` tells which past the data has. Redis makes another one when it starts, and when a
replica becomes a primary (redis.io, "Replication ID explained"). So it is another one after
everything that can lose what was acknowledged, but for commands: FLUSHALL, FLUSHDB and DEL. It is
also another one, and nothing is lost, when a primary gets its first replica, and an hour after the
last one is gone (`repl-backlog-ttl`). Then there is no `master_replid2`, and the process, its
`run_id`, is the same. Both are also true of a primary that was a replica meanwhile, if nobody has
written or asked for the epoch until its last replica was gone for that hour.
"""

from __future__ import annotations

import hashlib


class Script:
    """
    A script, and its SHA-1, by which a server knows it.

    Args:
        text: In Lua.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


EPOCH = Script("""
-- Return the epoch, and why it began; begin one if there is none, or if data can have been lost.
-- KEYS: the epoch. ARGV: a new epoch, the time.
local replication = redis.call('INFO', 'replication')
local server = string.match(replication, 'master_replid:(%w+)')
local promoted = not string.match(replication, 'master_replid2:0+%s')
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local evicted = string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%d+)')
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'server', 'run', 'evicted', 'why')
local epoch, why = kept[1], kept[5]
if not epoch then
  why = 'empty'
elseif kept[2] ~= server and (promoted or kept[3] ~= run) then
  why = 'restarted'
elseif tonumber(evicted) > tonumber(kept[4]) then
  why = 'evicted'
else
  if kept[2] ~= server or kept[4] ~= evicted then
    redis.call('HSET', KEYS[1], 'server', server, 'evicted', evicted)
  end
  return {epoch, why}
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'server', server, 'run', run, 'evicted', evicted,
  'why', why, 'began', ARGV[2])
return {ARGV[1], why}
""")

APPLY = Script("""
-- Compare and set entries; return a 1 or a 0 for each. Write nothing and return nil if data can
-- have been lost since this epoch.
-- KEYS: the epoch, the ids, then each entry.
-- ARGV: the epoch, a tombstone's milliseconds, then for each entry: the id, the version that it
-- must have, what was found, how many fields and values follow, these, how many names of fields to
-- remove follow, and these.
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'server')
if kept[1] ~= ARGV[1] or kept[2] ~= server then return false end
local done, at = {}, 3
for n = 3, #KEYS do
  local key, id, version, found = KEYS[n], ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local first = at + 4
  local last = first + tonumber(ARGV[at + 3]) - 1
  local removed = tonumber(ARGV[last + 1])
  at = last + 2 + removed
  local is = redis.call('HGET', key, 'version') or '0'
  if is == version and not (is == '0' and found == 'unchanged') then
    -- HSET first: it is the one that a full memory refuses.
    redis.call('HSET', key, unpack(ARGV, first, last))
    if removed > 0 then redis.call('HDEL', key, unpack(ARGV, last + 2, at - 1)) end
    if found == 'found' then
      redis.call('ZADD', KEYS[2], 0, id)
      redis.call('PERSIST', key)
    elseif found == 'gone' then
      redis.call('ZREM', KEYS[2], id)
      redis.call('PEXPIRE', key, ARGV[2])
    end
    done[n - 2] = 1
  else
    done[n - 2] = 0
  end
end
return done
""")

BODIES = Script("""
-- Return the body of each entry, or nil. KEYS: the entries.
local bodies = {}
for n, key in ipairs(KEYS) do bodies[n] = redis.call('HGET', key, 'body') end
return bodies
""")

SET_STATE = Script("""
-- Set a state if it is as it was; return 1, or 0.
-- KEYS: the states. ARGV: the name, the text, then the text that it must be, or nothing.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= (ARGV[3] or false) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""")

INFO = Script("""
-- Return what the server that has the cache says of itself. KEYS: the epoch, for its slot.
return {
  redis.call('INFO', 'server'), redis.call('INFO', 'memory'), redis.call('INFO', 'persistence'),
  redis.call('INFO', 'replication'), redis.call('INFO', 'stats'),
}
""")

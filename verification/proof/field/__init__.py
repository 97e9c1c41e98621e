"""
Our protocol beside the usual ones, in the same world: same workload, latencies and faults.

Ours is the production code, as in `proof.simulation`. The others are small, straightforward
implementations of the usual ways, written for this comparison. Their workers receive ten messages,
handle one after the other, and delete what they have handled.

- *payload, after the save*: the entity is published after it is saved (three attempts). The
  consumer writes the message's content.
- *payload, before the save*: the same, published first. A publish that fails prevents the save.
- *id only, GET*: the id is published before the save, as in the article that this library started
  from. The consumer GETs, reads a 404 as deleted, and writes what it has found. A queue delay of
  5 s gives the save time.
- *change-events*: with a queue delay of 5 s; with an early look; with an early look and confirmed
  saves.

A write is *stale for ever* if the cache is wrong and nothing is on its way that could repair it: no
message, no save, no process that holds one. (The next save of the entity repairs it by chance.)
*Staleness* is the time from a commit until the cache shows it, or a later one.
"""

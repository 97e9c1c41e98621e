"""
Our protocol beside the usual ones: the same world, the same workload, the same latencies, the same
faults.

Ours is the production code, as in `proof.simulation`. The others are small, straightforward
implementations of what is usually done, written for this comparison; each worker of theirs receives
ten messages, handles one after the other, and deletes what it has handled.

- *payload, after the save*: the entity is published once it is saved (three attempts); the consumer
  writes what the message says.
- *payload, before the save*: the same, published first; a publish that fails prevents the save.
- *id only, GET*: the id is published before the save, as in the article that this library started
  from; the consumer GETs, takes a 404 for deleted, and writes what it found. A queue delay of 5 s
  gives the save time.
- *change-events*: with a queue delay of 5 s; with an early look; with an early look and confirmed
  saves.

A write is *stale for ever* if the cache is wrong and nothing is on its way that could mend it: no
message, no save, nobody who holds one. (It heals by chance when the entity is next saved.)
*Staleness* is the time from a commit until the cache shows it, or a later one.
"""

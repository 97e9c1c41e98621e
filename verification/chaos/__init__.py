"""
Chaos: break everything around real workers, over real sockets, and count what is lost.

Each play starts an emulator of AWS, a source that owns entities, a proxy before each of the two,
and workers. Each worker is a process; they share a SQLite file. The proxies can fail in many ways.
Each figure has its goal; `docs/explanation/chaos.md` has all of them.
"""

"""
Chaos: break everything around real workers, over real sockets, and count what is lost.

Each play sets up an emulator of AWS, a source that owns entities, a proxy before each of the two
that can fail in many ways, and workers as processes of their own on one SQLite file. Its figures
stand beside their goals; `docs/explanation/chaos.md` has them all.
"""

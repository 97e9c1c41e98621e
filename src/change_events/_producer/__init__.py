"""The side that owns entities: broadcast, then save."""

"""The side that follows: receive, look, store, acknowledge."""

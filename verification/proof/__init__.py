"""Shows that the promise holds: for the production code, under every fault that it covers."""

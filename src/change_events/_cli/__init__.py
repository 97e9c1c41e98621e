"""The command `change-events`. Needs the extra `cli`."""

"""Starting, checking and repairing a cache. All of it is built of looks."""

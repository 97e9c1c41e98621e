"""
What sinks call as `upsert=`, `delete=` and `read=`.

The processes of the sink contract import these modules, so they import little.
"""

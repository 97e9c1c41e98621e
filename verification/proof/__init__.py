"""
What shows that the promise holds: on the production code, under every fault that it is made for.
"""

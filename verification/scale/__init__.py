"""
What limits a cache at many events a second: a model on paper, and the production consumer in
virtual time beside it.

The model says how many messages are in flight, how late a cache is, and how many GETs and dollars
it takes. Each worker of the simulation is a production `Run`. Its threads are tasks, and calls to
SQS and the source only take time. So a thousand workers fit into one process, and none of them is
short of processor time.
"""

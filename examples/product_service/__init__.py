"""
The example: a service that owns products, and a service downstream that keeps a cache of them.

    repository.py             the owning side: where change-events broadcasts (DynamoDB)
    sql_repository.py         the same with PostgreSQL, whose database makes the ids
    models.py, app.py         its products, and its HTTP side
    __main__.py               the owning side as a process
    downstream.py             the consuming side: a worker, a cache, and a question to it
    serving.py                what both need to run as a process
    demo_faults.py            saves that fail or are slow, for demonstrations
"""

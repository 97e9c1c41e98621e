"""
The example: a service that owns products, and one downstream of it that keeps a cache of them.

    models.py, repository.py, app.py, __main__.py    the owning side; the repository is where change-events comes in
    downstream.py                                    the consuming side: a worker, a cache, a question answered from it
    serving.py                                       what both need to run as a process
    demo_faults.py                                   saves that fail or dawdle, for demonstrations
"""

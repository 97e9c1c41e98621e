"""
What examples/demo.py is made of:

    story.py        what happens, from the first process to the verdict
    processes.py    child processes that always end
    emulator.py     AWS, on loopback
    stacks.py       the package's CloudFormation templates, deployed
    changes.py      which changes are made, and making them
    evidence.py     what came of them: staleness, and whether a cache equals the source
    screen.py       what you see
"""

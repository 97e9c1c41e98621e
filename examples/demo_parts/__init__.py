"""
The parts of examples/demo.py:

    story.py        what happens, from the first process to the verdict
    processes.py    child processes that always end
    emulator.py     AWS, on loopback
    stacks.py       deploys the package's CloudFormation templates
    changes.py      draws and makes the changes
    evidence.py     measures staleness
    screen.py       what you see
"""

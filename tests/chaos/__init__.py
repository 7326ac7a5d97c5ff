"""The fault campaign: a mixed load while things break; then each job is accounted for.

::

    __main__.py   the command: python -m tests.chaos --help
    campaign.py   one run: start, load, faults, drain, account
    schedule.py   which fault when, from a seed; pure
    load.py       which job when, from the same seed; pure
    faults.py     what each fault does
    system.py     the processes and the broker of a run, and what to do to them
    brokers.py    the brokers: a private RabbitMQ, a file
    processes.py  the processes, started and ended by their numbers
    node.py       the program of a node
    enqueuer.py   the program that enqueues and cancels
    jobs.py       the jobs, which write down what happens to them
    journal.py    what happened, a line each, that survives SIGKILL
    recovery.py   how soon all queues are consumed again
    account.py    what happened against what was promised; pure, as are the next three
    rules_of_….py the promises
    verdict.py    what an account is made of
    history.py    what the journals say, put in order
    returns.py    how soon it was as before; pure
    report.py     the figures: JSON, and the table in docs/reliability.md
"""

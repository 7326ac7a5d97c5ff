"""The embedded broker: SQLite in the program's own process, on one machine.

::

    broker.py     EmbeddedBroker: the Broker protocol
    pump.py       the task that moves messages between the database and the channels
    channels.py   channels and deliveries
    listeners.py  who listens to broadcasts
    runner.py     where transactions run: inline (memory), or in one thread with group commit
    engine.py     what a transaction does: SQL, and nothing else
    post.py       what it does about broadcasts
    headers.py    how it keeps a message's headers
    values.py     what the engine tells
    database.py   the file: its schema, its checks
    clock.py      the time that delays go by
    presence.py   which processes live, and how one wakes another
    deathwatch.py noticing at once that one has died
"""

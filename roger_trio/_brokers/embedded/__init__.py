"""The embedded broker: SQLite in the program's own process, on one machine.

::

    broker.py     EmbeddedBroker: the Broker protocol; channels, deliveries, the pump between them
    runner.py     where transactions run: inline (memory), or in one thread with group commit
    engine.py     what a transaction does: SQL, and nothing else
    database.py   the file: its schema, its checks
    presence.py   which processes live, and how one wakes another
"""

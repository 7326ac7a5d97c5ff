"""RabbitMQ: aiormq for control, Trio for data. The only folder that knows asyncio.

::

    broker.py        RabbitBroker: the Broker protocol over two links
    link.py          Link: one connection kept alive, with backoff
    connecting.py    from a configuration to a connection, or why not
    connection.py    Connection: one live connection; control by aiormq
    loop.py          the asyncio event loop that aiormq lives in
    topology.py      queue declarations and the delay levels
    publishing.py    PublishChannel and confirms
    channels.py      what rides on a channel: deliveries, gets
    transport.py     Transport: the Trio stream under aiormq, and the frame splitter
    frames.py        the bytes
    versions.py      what RabbitMQ's versions do differently
    probe.py         finding out what a broker is like; facts.py: what was found out
"""

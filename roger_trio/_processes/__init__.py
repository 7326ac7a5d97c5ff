"""``roger serve --processes N``: several nodes, each in a process, under one supervisor.

supervisor    starts them, stops them, and starts those again that died
restarts      decides which, when, and when it is of no use
process       one of them, as the supervisor has it
child         the same one from within: how it is told to stop
tie           what connects the two
run           the supervisor as a program
"""

from __future__ import annotations

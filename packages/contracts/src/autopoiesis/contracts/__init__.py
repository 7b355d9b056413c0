"""Messages and subjects every Autopoiesis service speaks.

`subjects` is the registry (what travels where, how it is delivered, who owns it); `messages` holds the types, one file
per conversation; `codec` turns them into bytes and back. Nothing here does I/O.
"""

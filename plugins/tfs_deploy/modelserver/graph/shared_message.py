"""Makes a protobuf message one that several threads may read at once.

Python's protobuf makes an object for a part of a message when it is asked for, keeps it in a table for as long as
somebody holds it, and does not expect another thread in between: two threads that ask for the same part can end the
process (seen with protobuf 7.36: a segmentation fault in ``_message.abi3.so`` under concurrent requests). What is held
already is only looked up.
"""

from __future__ import annotations

from typing import Any


def objects_of(message: Any) -> list[Any]:
    """Return the objects of `message` and of all its parts; nobody has to make one while the list is held."""
    found = [message]
    for field in message.DESCRIPTOR.fields:
        part = field.message_type
        if part is not None and part.GetOptions().map_entry:
            values = getattr(message, field.name)
            found.append(values)
            if part.fields_by_name["value"].message_type is not None:
                for key in values:
                    found += objects_of(values[key])
        elif field.is_repeated:
            values = getattr(message, field.name)
            found.append(values)
            if part is not None:
                for value in values:
                    found += objects_of(value)
        elif part is not None:
            # Also of what is not set: reading it makes an object, too, and that has no parts that anybody reads.
            value = getattr(message, field.name)
            found += objects_of(value) if message.HasField(field.name) else [value]
    return found

"""From an entry of the corpus to a whole policy."""

import textwrap

PRIORITIZE = "def prioritize(request, ctx):\n    return request.arrival\n\n\n"


def whole(program: str) -> str:
    """The policy that a corpus entry stands for: a body of `route`, or a module that defines it."""
    if "def route(" in program:
        return f"{program}\n\n{PRIORITIZE}"
    return f"{PRIORITIZE}def route(request, replicas, ctx):\n{textwrap.indent(program, '    ')}\n"

"""Errors meant for the operator."""


class OperatorError(Exception):
    """The message says what was tried and what to change; a traceback would add nothing."""

"""The policy API, its language, the shipped policies and the jail they are judged in."""

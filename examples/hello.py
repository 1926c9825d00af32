"""The smallest function: an argument in, a value out."""


def hello(name="world"):
    """Whatever a function returns is its caller's, if JSON could say it; bytes travel as well."""
    return f"hello {name}"

"""Talk with the caller: what it sends comes back, as it comes."""


def echo():
    """`api.recv()` is the next of the caller's input, b"" at its end; `api.send()` is output at once."""
    while data := api.recv():
        api.send(data)

"""The wire: bytes in, messages out, no I/O. PROTOCOL.md is its specification, `tests/vectors/` its examples.

`messages` what is said, `framing` how it travels, `outer` and `inner` which message may come when, `offsets` streams
that survive a lost circuit, `broker` what a box and its own instances say to each other.
"""

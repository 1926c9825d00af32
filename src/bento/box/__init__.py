"""The box: what runs beside a relay. `start` brings its processes up, `server` speaks the outer conversation,
`instances` knows what runs, `egress` dials for functions, `streams` can cut what was handed over, `relay` watches the
relay, `onion` is its own tor, `check` tells an operator whether all of it will work.
"""

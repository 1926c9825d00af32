"""The box: what runs beside a relay.

`start` brings its processes up, `accounts` says under which users; `server` speaks the outer conversation, `instances`
knows what runs, `egress` and `resolver` dial for functions, `streams` can cut what was handed over; `watcher` asks the
relay and `relay` hears what it says; `onion` is the box's own tor; `check` tells an operator whether all of it works.
"""

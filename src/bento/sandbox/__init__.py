"""Strangers' Python, confined: a pool of pre-forked children that can do almost nothing.

    start.py        start_reaper: what a box calls, once
    link.py         ReaperLink: what a box's server speaks through
    outbox.py       packets that wait until the reaper reads
    spec.py         the words both sides use: Limits, Image, SandboxConfig, Tombstone (pure)
    images.py       python_image: what functions of the image "python" can import
    libraries.py    the libraries in it: their files, versions and digests
    messages.py     the packets between server, reaper and zygote
    reaper.py       pid 1 of all instances; outlives the server
    namespaces.py   what the reaper leaves behind when it starts
    instances.py    who runs, until when, and what ended them (pure)
    limits.py       a grant's limits put on a waiting child
    pool.py         zygote generations and the children that wait
    cgroups.py      a cgroup for each slot: v2, else v1, else none
    root.py         the read-only root that functions see
    seccomp.py      the system calls that are left
    zygote.py       forks children (runs inside the image)
    confine.py      what a child does to itself before it waits (runs inside the image)
    syscalls.py     the kernel's calls that Python has no name for

This package imports nothing by itself: the zygote loads it inside the image, where most of these files are not.
"""

"""The gateway beside nginx, Envoy and a FastAPI + httpx proxy, on the same load, on this machine, in turn.

`python -m benchmarks.peers` installs what it needs, runs each cell once a round, interleaved so that a
drifting machine drifts for all alike, and prints ratios with their spread. Absolute microseconds belong
to one machine; ratios travel better.

Words used here:

* contender: a proxy under load, with its configuration (`contenders.py`);
* cell: one contender under one load (`cells.py`); each round measures each cell once;
* proxy CPU: user + system time of the processes that carry client bytes; tree CPU: of every process of it;
* goal: a ratio of two cells with a limit (`goals.py`).

It must never reach beyond the loopback interface (installing apart), run without a deadline, or leave a
process behind.
"""

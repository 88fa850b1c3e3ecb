"""The data plane: match, assign, forward, journal, reply, shadow. Small, in one place, and free of anything that could wait.

Everything runs in callbacks of one event loop; the only thing a request waits for is its model server. No module here imports numpy,
FastAPI or the store. Reading order: server (a client's connection), plane (which version), exchange (one request's way),
upstream (a model server's connections), shadow (copies), statistics, link (to the control process), worker (the process).
"""

"""model-gateway: an asynchronous reverse proxy that learns whether the next model is safe to let in.

Glossary
--------
model        what clients address: a match, a protocol, a set of versions and one production version.
version      one deployment of a model: one or more upstream URLs that answer alike.
production   the version whose answer clients get unless a canary is assigned.
candidate    the version under trial: shadowed, then canaried, then promoted or rolled back.
canary       the share of requests that the candidate answers, chosen by a sticky bucket of the routing key.
shadow       a copy of a request sent to another version after the answer has left; its answer is recorded, never returned.
control      a canary's request mirrored to production, so that both are compared on the same input.
fallback     production's answer given because the canary failed.
snapshot     everything a worker needs to route, immutable, with a revision.
journal      append-only segments on local disk; what was answered is in it before its last byte leaves.
record       one entry of the journal: a prediction, a shadow answer, or an outcome.
recorder     moves records from the journal to the store, exactly once.
evidence     per-second statistics of each version, merged over workers and replicas.
guard        the window rule that stops a canary share at once, inside the worker.
verdict      healthy, degraded, inconclusive or no_data, with its reason.
rollout      a candidate's way through shadow and canary stages; one open at a time a model.
outcome      the ground truth for a prediction, which comes seconds or years later.
"""

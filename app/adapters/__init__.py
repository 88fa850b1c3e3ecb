"""One technology a file: the databases, Redis, and what stands in for them on one host."""

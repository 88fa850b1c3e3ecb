"""Who tries to get in, past or through: over real sockets, against real workers and a whole gateway."""

"""The link between a worker and the control process of its host: length-prefixed msgpack frames over a Unix socket."""

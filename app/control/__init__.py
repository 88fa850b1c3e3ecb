"""The control process: recorder, controller, monitor. Never on the path of a client's request."""

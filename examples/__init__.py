"""Programs to run beside the gateway: real model servers, small enough to read."""

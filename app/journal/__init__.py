"""Append-only segments on local disk: what was answered is here before its last byte leaves, until the store has it."""

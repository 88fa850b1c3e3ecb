"""Faults to survive, with one oracle: every answered id is in the database, once, and the accounts add up."""

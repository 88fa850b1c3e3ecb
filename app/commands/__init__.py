"""The commands, one noun a module. Whatever they know of a running gateway they learn over its HTTP API.

Modules here import nothing heavy at their top: `model-gateway --help` must not load what only one command needs.
"""

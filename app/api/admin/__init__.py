"""The admin API, one file a subject. Everything here needs a token; changes are audited with who, whence
and why.
"""

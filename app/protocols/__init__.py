"""Reads what model servers and their clients say to each other: rows of features, predictions and confidence from captured bodies.

Readers only read, in the recorder, after the answer has left; they never touch traffic and never raise on any bytes. What cannot be
read is a `Reason` from a closed set. Glossary:

exchange     a request and its reply as captured: raw bytes, content types, status.
reader       a function from an exchange to an extraction, compiled once a model (`registry.build_reader`).
extraction   rows, the reason why something is missing, and facts beside the rows.
row          one prediction: features, prediction, confidence, scores. A body of N rows gives N.
redaction    names of features that are dropped or hashed (`privacy`).

Must never import numpy: the proxy workers load `privacy` and `json_paths`. To add a protocol see `docs/protocols.md`.
"""

"""Decisions without side effects: values in, frozen values with a reason out.

Nothing here does I/O, reads a clock, draws a random number or logs; time, randomness and identifiers are
arguments. This package imports nothing, so that a proxy worker can import `routing`, `guard` and `prediction`
without loading numpy.

Glossary
--------
agreement      whether two versions' predictions for one input count as the same (`comparison`).
assignment     which version answers a request, in which role, and why (`routing`).
baseline       reference data or a training-time figure that later data are held against (`drift`).
bucket         0..9999, a hash of salt and routing key; a canary takes the lowest buckets (`routing`).
cohort         predictions of one age range; mature once older than the label horizon (`performance`).
correction     a later, different outcome for the same prediction; the newest observation wins (`outcome`).
coverage       the share of predictions whose outcome is known (`performance`).
drift          a change in the distribution of a feature or of the prediction (`drift`).
finding        a change of schema that needs no test: missing, new category, other type (`drift`).
guard          the window rule that stops a canary at once (`guard`).
horizon        the age from which an outcome that has not come is no longer expected (`performance`).
interval       a 95 % range for a metric; what it assumes is stated where it is computed (`performance`).
lease          the time for which an item under review is kept from other reviewers (`review`).
outcome        the ground truth of a prediction, which comes seconds or years later (`outcome`).
prediction id  a UUIDv7 made by the gateway (`prediction`).
propensity     the probability with which a version was assigned or an item was picked (`routing`, `review`).
provisional    an estimate made before labels are mature, kept apart from figures (`performance`).
recency        the weight of a training row by its age (`recency`).
severity       how far a distribution moved, in units of the reference's spread (`drift`).
urgency        routine, elevated or critical (`retraining`).
withheld       a figure that is not given, with the reason, because too little is known (`performance`).
"""

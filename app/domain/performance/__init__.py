"""How good a version's predictions were, in constant memory, and how sure that figure is.

`tally` takes labelled rows and gives figures: `binary`, `multiclass` or `regression`; `paired` compares
two versions on the same requests. Accumulators add up over shards in any order, save to plain values, and
never keep a row. `maturity` says which rows may be scored at all and how complete their labels are. What
can be said before labels are mature is `provisional` and stands apart: `delay` weights by the delay curve
of labels, `calibrated` expects performance from calibrated confidence and scores itself.

A figure that rests on too little is withheld with the reason; provisional figures are never mixed with
measured ones.
"""

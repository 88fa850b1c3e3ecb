"""Whether what comes in, or what goes out, is still distributed as in the reference. Drift warns; it
never rolls back.

A `reference` keeps each feature's distribution, made once from reference rows. A `window` counts live
rows against it in constant memory and adds up over shards. `report` tests every feature of every window
and says which changed, by how much, and how sure that is, at a false-alarm rate a day that holds over all
features and windows together.

The tests: `psi` (numbers on quantile bins, against a threshold that knows the sample sizes), `distance`
(Kolmogorov- Smirnov; Wasserstein as severity), `categories` (χ² with an explicit bin for unseen ones),
`shares` (missing values, other types, values out of range, new categories: findings of their own), and
`multiple` (Benjamini-Yekutieli).
"""

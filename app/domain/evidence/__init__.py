"""Is the candidate worse than production? A bet that wins only if it is, looked at every second.

This package imports nothing here: proxy workers import `evidence.tick` and must stay free of numpy.
What it does is explained in docs/rollouts.md.

Glossary
--------
arm        production or candidate; which of the two answered a request.
batch      the counts of one replica in one tick, both arms, with the canary share in force.
before and after  a candidate that answers everything against what the former production did: where no pairs come.
bet        a rule that pays when bad events fall on the candidate more often than its share; none can win in
           the long run against a candidate that is no worse.
e-value    what one unit of stake has become. Its mean is at most 1 while the candidate is no worse, so it
           reaches 1/alpha with probability at most alpha, however often one looks (Ville's inequality).
drip       the part of the stake that enters later, so that a version that goes bad after hours is found too.
metric     errors, latency, shadow, labels …: each has its own bets and a fixed part of the stake.
pair       one input answered by both versions.
share      rho, the candidate's part of the votes in a batch.
tick       a whole second since the epoch.
"""

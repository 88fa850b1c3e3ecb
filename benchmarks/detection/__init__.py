"""How fast a bad canary is found and how rarely a good one is blamed, beside what information theory allows.

Simulated rollouts, a thousand at a time, through the bets and stakes that the gateway itself decides with:
`python -m benchmarks.detection` prints the whole table of goals, with arguments one setting.

Glossary
--------
bound      B, the canary requests that any test with this alpha needs on average: log(1/alpha) over the
           information that a canary request brings, with production's requests that come with it.
delay      canary requests from the moment the candidate is bad until it is rolled back.
world      what happens to both versions: steady, an incident, a ramp …; and to the candidate alone.
"""

"""PromQL evaluated as matrices: every expression is a (series, steps) array, never a loop over series.

https://prometheus.io/docs/prometheus/latest/querying/basics/ says what the language means. `query.instant` and
`query.range_` are the entrances; data comes from a `source.Source`.
"""

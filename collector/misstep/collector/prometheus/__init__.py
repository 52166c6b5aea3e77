"""Prometheus' HTTP API, as Grafana and others really call it: https://prometheus.io/docs/prometheus/latest/querying/api/

Shapes only; what a query means is said in `misstep.store.promql`.
"""

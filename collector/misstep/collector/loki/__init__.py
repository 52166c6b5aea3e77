"""Loki's HTTP API, as far as Grafana's data source and LogCLI ask it: https://grafana.com/docs/loki/latest/reference/loki-http-api/

Shapes only; what a query means is said in `misstep.store.logql`.
"""

"""LogQL: Grafana Loki's query language, over the table ``logs``.

Text becomes tokens, tokens an expression, an expression SQL: every line is selected, parsed and counted by DuckDB.
Python sees the lines that are returned and the counts, never each stored line. No HTTP and no JSON of Loki's API here.

The language: https://grafana.com/docs/loki/latest/query/
"""

"""What a Ray cluster tells of itself: events, logs, metrics, dashboard and the life of its processes.

Readings only. What they mean for each other, and which of them is a cause, is not decided here.
"""

"""A driver that catches whatever fails, says so in its own words and leaves with status 2."""

import sys

import ray


@ray.remote
def validate(row):
    return row["id"]


ray.init()
try:
    print(ray.get([validate.remote(row) for row in ({"id": 1}, {})]))
except Exception as error:  # noqa: BLE001
    print("failed:", type(error).__name__)
    sys.exit(2)

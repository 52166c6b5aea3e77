"""Reads its configuration before it starts Ray; a key is missing."""

import json

import ray

config = json.loads('{"shards": 4}')
batch = config["batch_size"]
ray.init()

"""A task runs a command-line tool, and the tool fails."""

import subprocess

import ray


@ray.remote
def convert(path):
    subprocess.run(["ls", path], check=True, capture_output=True)
    return path


ray.init()
print(ray.get([convert.remote(path) for path in ("/", "/no/such/folder")]))

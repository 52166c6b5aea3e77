"""A task whose packages cannot be installed."""

import ray


@ray.remote(runtime_env={"pip": ["/srv/wheels/tokenizer-0.3-py3-none-any.whl"]})
def tokenize(text):
    return text.split()


ray.init()
print(ray.get(tokenize.remote("a b c")))

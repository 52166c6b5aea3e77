"""A task imports what is not installed where it runs."""

import ray


@ray.remote
def tokenize(text):
    import a_tokenizer_that_nobody_installed as tokenizer

    return tokenizer.split(text)


ray.init()
print(ray.get(tokenize.remote("a b")))

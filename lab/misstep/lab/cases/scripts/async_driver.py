"""A driver that is written with asyncio; one of the tasks it awaits fails."""

import asyncio

import ray


@ray.remote
def embed(text):
    return text.upper()


async def main():
    print(await asyncio.gather(*(embed.remote(text) for text in ("a", "b", None, "c"))))


ray.init()
asyncio.run(main())

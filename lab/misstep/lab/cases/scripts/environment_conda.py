"""An actor that asks for a conda environment where there is no conda."""

import ray


@ray.remote
class Renderer:
    def render(self):
        return 1


ray.init()
renderer = Renderer.options(runtime_env={"conda": "renderer-3.11"}).remote()
print(ray.get(renderer.render.remote()))

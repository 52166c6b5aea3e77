"""An actor whose working folder is an archive that cannot be fetched."""

import ray


@ray.remote
class Renderer:
    def render(self):
        return 1


ray.init()
renderer = Renderer.options(runtime_env={"working_dir": "file:///srv/code/renderer.zip"}).remote()
print(ray.get(renderer.render.remote()))

"""An actor that wants eight GPUs where there are none."""

import ray


@ray.remote(num_gpus=8)
class Engine:
    def generate(self, prompt):
        return prompt[::-1]


ray.init()
engine = Engine.remote()
print(ray.get(engine.generate.remote("hello")))

"""An actor that takes its time to load."""

import time

import ray


@ray.remote
class Model:
    def __init__(self):
        time.sleep(15)

    def predict(self, x):
        return x


ray.init()
model = Model.remote()
print(ray.get(model.predict.remote(1)))

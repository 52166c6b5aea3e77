"""An actor waits for a task of its own, and reports that task's failure as an error of its own."""

import ray


class StepFailed(Exception):
    pass


@ray.remote
def gradient(batch):
    return 1.0 / batch


@ray.remote
class Learner:
    def step(self, batch):
        try:
            return ray.get(gradient.remote(batch))
        except ZeroDivisionError as error:
            raise StepFailed(f"step on batch {batch}") from error


ray.init()
learner = Learner.remote()
print([ray.get(learner.step.remote(batch)) for batch in (2, 1, 0)])

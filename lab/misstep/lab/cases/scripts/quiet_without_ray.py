"""A script that has nothing to do with Ray."""

import time

time.sleep(2)
print("done")

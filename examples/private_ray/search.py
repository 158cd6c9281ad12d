"""A search for good settings, in parallel: `headrace run --kind ray -- python examples/private_ray/search.py`.

`ray.init()` finds a cluster of exactly what the job holds; it began with the job and ends with it. Tasks try settings,
an actor keeps the best. The "training" is a function with a known minimum, so that it needs no package but Ray.
"""

from __future__ import annotations

import argparse
import random

import ray

import headrace

BEST_RATE, BEST_DECAY = 0.03, 0.4


@ray.remote(num_cpus=1)
def train(rate: float, decay: float) -> tuple[float, float, float]:
    """A loss, lowest at the two settings above."""
    loss = (rate / BEST_RATE - 1) ** 2 + (decay - BEST_DECAY) ** 2
    return loss, rate, decay


@ray.remote(num_cpus=0)
class Best:
    """The best that anybody has found."""

    def __init__(self) -> None:
        self._best = (float("inf"), 0.0, 0.0)

    def offer(self, found: tuple[float, float, float]) -> tuple[float, float, float]:
        self._best = min(self._best, found)
        return self._best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=40)
    trials = parser.parse_args().trials
    ray.init(log_to_driver=False)
    has = ray.cluster_resources()
    print(f"{len(ray.nodes())} node, {has['CPU']:g} CPUs, {has.get('GPU', 0):g} GPUs", flush=True)
    dice, best = random.Random(7), Best.remote()
    running = [train.remote(10 ** dice.uniform(-4, 0), dice.random()) for _ in range(trials)]
    for step in range(trials):
        done, running = ray.wait(running)
        loss, rate, decay = ray.get(best.offer.remote(done[0]))
        headrace.log(step=step, best=loss)
    print(f"best of {trials}: loss {loss:.4f} at rate {rate:.4f}, decay {decay:.2f}")


if __name__ == "__main__":
    main()

"""Seeds of trainings and of evaluations, kept apart.

An agent is judged on dreams it was not trained on. Seeds like `seed + number` overlap as soon as
the numbers grow. Hashed under different keys, two of them are equal by chance only: one pair in two
thousand million.
"""

from __future__ import annotations

import numpy as np

from worldflow.envs.collect import environment_seed

# First words of the keys. Keys here have three words, those of `worldflow collect` have two.
TRAINING, EVALUATION, LOOP = 1, 2, 3


def training_seed(seed: int, steps: int) -> int:
    """The seed of a piece of a training that begins after `steps` steps; 31 bits."""
    return environment_seed(np.random.SeedSequence(seed, spawn_key=(TRAINING, steps, 0)))


def episode_seed(seed: int, episode: int) -> int:
    """The seed of the environment in an episode of an evaluation; 31 bits."""
    return environment_seed(np.random.SeedSequence(seed, spawn_key=(EVALUATION, episode, 0)))


def episode_generator(seed: int, episode: int) -> np.random.Generator:
    """The generator of a policy's chance in an episode of an evaluation."""
    sequence = np.random.SeedSequence(seed, spawn_key=(EVALUATION, episode, 1))
    return np.random.default_rng(sequence)


def loop_seed(seed: int, number: int, role: int) -> int:
    """The seed of an agent of a loop, in a round; `role` tells agents of one round apart."""
    return environment_seed(np.random.SeedSequence(seed, spawn_key=(LOOP, number, role)))

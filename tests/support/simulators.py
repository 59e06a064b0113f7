"""robosuite's simulators, shared by tests: building and freeing one takes a second.

An episode depends on its seed only, whatever was played before:
`test_resets_are_robosuites_own` compares simulators of this pool with new ones.
"""

from collections import defaultdict

import numpy as np

from dynvgd_jax.envs.robosuite.build import build_env

# What engines and tests change in a model beside the state that a reset starts anew.
_MODEL_ARRAYS = ("geom_contype", "geom_conaffinity", "body_pos", "body_quat")
_MODEL_OPTIONS = ("disableflags", "timestep")


class Pool:
    """Lends simulators to one test after the other; builds one where none is free."""

    def __init__(self):
        self._free, self._lent = defaultdict(list), []

    def take(self, task):
        """Returns a simulator of the task as `build_env` makes it; not yet reset."""
        free = self._free[task.name]
        entry = free.pop() if free else (task.name, *_build(task))
        self._lent.append(entry)
        return entry[1]

    def give_back(self):
        """Takes all of them back; whoever holds one must not use it any more."""
        for entry in self._lent:
            _restore(*entry[1:])
            self._free[entry[0]].append(entry)
        self._lent = []


def _build(task):
    env = build_env(task)
    env.close = lambda: None  # robosuite's frees it, and collects garbage every time
    model = env.sim.model._model
    arrays = {name: getattr(model, name).copy() for name in _MODEL_ARRAYS}
    options = {name: getattr(model.opt, name) for name in _MODEL_OPTIONS}
    return env, arrays, options


def _restore(env, arrays, options):
    model = env.sim.model._model
    for name, array in arrays.items():
        np.copyto(getattr(model, name), array)
    for name, value in options.items():
        setattr(model.opt, name, value)
    for name in ("forward", "step"):  # put over the class's own
        vars(env.sim).pop(name, None)

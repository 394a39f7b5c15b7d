"""`worldflow COMMAND --multirun`: one job for each combination of values, by Hydra's own machinery.

Hydra's sweepers decide which jobs there are and its launchers where they run, plugins such as
hydra-submitit-launcher included.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from worldflow.config import CONFIGS, merge_schema, to_config
from worldflow.errors import ConfigError
from worldflow.sweep_plan import plan_sweep


class Job:
    """What Hydra runs for each job; launchers pickle it.

    Args:
        name: of the command.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, composed: DictConfig) -> None:
        """Run the command with the configuration that Hydra composed."""
        from worldflow.cli import COMMANDS  # which is what imports this module

        command = COMMANDS[self.name]
        function, schema = command.load()
        node = merge_schema(f"configs/{command.config}.yaml", schema, composed)
        join_tasks()
        function(to_config(command.config, schema, node))


def run_sweep(name: str, config_name: str, schema: type[Any], overrides: Sequence[str]) -> None:
    """Run a command once for each combination of the values of its overrides.

    Args:
        name: of the command.
        config_name: its YAML file.
        schema: its dataclass.
        overrides: as for one run, with several values for some (`training.seed=0,1,2`,
            `world=catch,small`, `training.seed=range(0,8)`), and Hydra's own settings.

    Raises:
        ConfigError: see `plan_sweep`; or this process is one of several of torchrun's.
        WorldflowError: a job failed; the others have been run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "--multirun does not go with torchrun, each of whose processes would start all jobs; "
            "use a launcher with several tasks a job (hydra.launcher.tasks_per_node)"
        )
    arguments = plan_sweep(config_name, schema, overrides)
    application = hydra.main(f"pkg://{CONFIGS}", config_name, version_base="1.3")(Job(name))
    job_name = f"hydra.job.name={name.replace(' ', '-')}"
    with _process([sys.argv[0], "--multirun", job_name, *arguments]):
        try:
            application()
        except HydraException as error:
            raise ConfigError(" ".join(str(error).split())) from error


def join_tasks() -> None:
    """Inside a job that submitit started as several tasks: tell torch of the others.

    Each task sees all devices of its node and takes the one of its local rank.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or "WORLD_SIZE" in os.environ:
        return
    submitit = importlib.import_module("submitit")  # it has started this process
    if submitit.JobEnvironment().num_tasks > 1:
        environment = submitit.helpers.TorchDistributedEnvironment()
        environment.export(set_cuda_visible_devices=False)


@contextmanager
def _process(argv: list[str]) -> Iterator[None]:
    """The command line that `hydra.main` reads, and errors as they were raised.

    Otherwise Hydra prints what a job raised and exits with code 1.
    """
    saved, errors = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = saved
        if errors is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = errors

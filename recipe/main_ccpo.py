"""Compose the configuration, check it, start verl. The only entry point of training, on a GPU and on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra

HERE = Path(__file__).resolve().parent
FULL_ERROR = "HYDRA_FULL_ERROR"
ASKED = os.environ.get(FULL_ERROR)  # by the user, for tracebacks
RAY_STARTS = 3  # ray.init gives its first process 30 s (a constant in Ray 2.60), too little on a busy machine

if importlib.util.find_spec("ccpo") is None:  # nor would a process that Ray starts find it
    sys.exit(
        f"error: ccpo is not on PYTHONPATH, and every process of the job needs it: start with recipe/run_ccpo.sh, or set PYTHONPATH={HERE.parent}"
    )

# verl reads its platform and its modules when it is first imported, and composing the configuration imports it (pkg://verl.trainer.config).
MODULES = "VERL_USE_EXTERNAL_MODULES"
os.environ.setdefault(MODULES, "")
WORDS = [word.lstrip("+").replace("'", "").replace('"', "") for word in sys.argv]  # Hydra takes quotes away, too
if "profile=cpu" in WORDS:
    from ccpo.verl_cpu import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
os.environ[MODULES] = ",".join(["ccpo.verl_plugin.process", *filter(None, os.environ[MODULES].split(","))])

# Ray keeps a record of the last 100,000 calls for its dashboard, which a job does not start: 300 MB, reached after some 190 steps on the CPU.
os.environ.setdefault("RAY_task_events_report_interval_ms", "0")

# Hydra stops at the first unknown key and knows no better one. With ++ a misspelt ccpo key reaches our check, which lists every mistake.
sys.argv[1:] = [f"++{word}" if word.startswith("ccpo.") else word for word in sys.argv[1:]]


def start(config, hold, composed: str, settings: str) -> None:
    """Run verl's trainer on a checked configuration; blocks until training ends. ``hold``: of the run's folder. The rest: see `record`."""
    import psutil
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from verl.plugin.platform import get_platform
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    from ccpo.verl_plugin import nodes, pulse
    from ccpo.verl_plugin.faults import explained
    from ccpo.verl_plugin.network import check_nodes, not_joined, own_ray, prepare
    from ccpo.verl_plugin.resources import check_cluster

    began, checked = psutil.Process().create_time(), time.time()
    run_dir, limit = Path(config.trainer.default_local_dir), config.ccpo.stall_timeout

    class CcpoTaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
        """verl's task runner, in whose process the trainer and the estimator must be registered first, and which is watched."""

        def run(self, config):
            from concurrent.futures import ThreadPoolExecutor

            import transfer_queue as tq
            from omegaconf import OmegaConf

            from ccpo.verl_plugin import early
            from ccpo.verl_plugin.agent_loops import ccpo_config
            from ccpo.verl_plugin.faults import Watchdog
            from ccpo.verl_plugin.start_times import StartTimes

            times = StartTimes(checks=began, Ray=checked)
            early.start(config, len(ccpo_config(config).policy_list()))
            # The queue's processes start while this one imports the trainer, which registers it.
            settings = OmegaConf.create(OmegaConf.to_container(config.transfer_queue, resolve=True))
            queue = ThreadPoolExecutor(1).submit(tq.init, settings)
            from ccpo.verl_plugin.trainer import CcpoTrainer

            CcpoTrainer.watchdog = Watchdog(run_dir, limit, pulse.send, times)
            with CcpoTrainer.watchdog.watching():
                queue.result()  # verl's own tq.init finds it
                return super().run(config)

    def begin() -> dict[str, Any]:
        """Ray is there: look whether it can do the job. Returns where the task runner runs: beside this process, which holds the folder."""
        check_nodes(config)
        here = ray.get_runtime_context().get_node_id()
        check_cluster(config, ray.nodes(), get_platform().ray_resource_name())
        if not own_ray(config):
            nodes.check(config, hold.path)
        record(composed, settings, run_dir)
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}

    prepare(config)
    for attempt in range(1, RAY_STARTS + 1):
        try:
            runner = pulse.WatchedRunner(ray.remote(CcpoTaskRunner), run_dir, limit, hold.check, begin)
            return run_ppo(config, task_runner_class=runner)
        except Exception as error:
            if text := explained(error, run_dir) or not_joined(error):
                sys.exit(f"error: {text}")
            if "node timed out during startup" not in str(error) or attempt == RAY_STARTS:
                raise
            print(f"warning: Ray did not start in time, attempt {attempt} of {RAY_STARTS}", file=sys.stderr)
        finally:
            pulse.end_ray()  # while the folder is still ours: nothing of this job writes there any more


def record(composed: str, settings: str, run_dir: Path) -> None:
    """Keep the job's configuration in its folder, as it was composed and as checkpoints are compared with it.

    It is the first thing that a start changes on the disk, once nothing can refuse it any more.
    """
    from ccpo.run.checkpoint import write_atomic
    from ccpo.run.folder import JOB, SETTINGS

    try:
        (run_dir / JOB).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(run_dir / JOB, composed)
        write_atomic(run_dir / SETTINGS, settings)
    except OSError as error:
        sys.exit(
            f"error: the job's folder cannot be written ({error}): set trainer.default_local_dir (OUT) to one that can"
        )


@hydra.main(config_path="config", config_name="ccpo_dyad", version_base=None)
def main(config) -> None:
    from omegaconf import OmegaConf
    from verl.utils.device import auto_set_device

    from ccpo.config import ConfigError
    from ccpo.run.folder import FOLDERS, run_folder
    from ccpo.run.lock import run_lock
    from ccpo.user_code import absolute
    from ccpo.verl_plugin import fit, resuming
    from ccpo.verl_plugin.names import name_run
    from ccpo.verl_plugin.preflight import check, readable

    if not ASKED:
        os.environ.pop(FULL_ERROR, None)
    try:
        readable(config)
        name_run(config)
        composed = OmegaConf.to_yaml(config)
        auto_set_device(config)
        for name in ("team", "reward", "prompts"):  # processes that Ray starts elsewhere look for a user's files, too
            if isinstance(value := config.ccpo.get(name), str):
                config.ccpo[name] = absolute(value)
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(HERE / "config" / "agent_loops.yaml")
        if not config.actor_rollout_ref.rollout.get("router_config_path"):
            config.actor_rollout_ref.rollout.router_config_path = str(HERE / "config" / "router.yaml")
        run_dir = run_folder(config.trainer.default_local_dir)
        for setting in FOLDERS:  # verl knows no ~
            if isinstance(value := OmegaConf.select(config, setting), str) and value.startswith("~"):
                OmegaConf.update(config, setting, str(run_folder(value, setting)))
        with run_lock(run_dir) as hold:
            plan, misfits = fit.settle(config)
            for note in check(config):
                print(f"warning: {note}", file=sys.stderr)
            if misfits:
                raise ConfigError(misfits)
            print(*plan, sep="\n")
            print(f"the run's folder is {run_dir}", flush=True)
            start(config, hold, composed, json.dumps(resuming.settings(config), indent=1))
    except ConfigError as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """`main`, with Hydra's refusals of the command line in our words."""
    from ccpo.verl_plugin import advice

    words = sys.argv[1:]
    if found := advice.unknown_groups(words, HERE / "config"):
        sys.exit("error: " + "\n".join(found))
    os.environ[FULL_ERROR] = "1"  # Hydra raises what it would print
    try:
        main()
    except Exception as error:
        if ASKED or not (text := advice.why_not(error, words, HERE / "config")):
            raise
        sys.exit(f"error: {text}")


if __name__ == "__main__":
    run()

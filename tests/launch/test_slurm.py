"""The presets for clusters, under a Slurm of a few lines of shell: what is submitted, and what comes at the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
from support import only_run

pytestmark = pytest.mark.distributed

SLURM = {
    # A job is started at once, in the background; what it is told to do stays.
    "sbatch": """cp "$1" $FAKE/job.sh; echo Submitted batch job 777; sh $FAKE/again & """,
    # One task of the step.
    "srun": """env | grep SLURM_KILL > $FAKE/setup
        set -- "${@//%j/777}"; while [ "$1" != "$PYTHON" ]; do shift; done; exec "$@" > $FAKE/log 2>&1""",
    "scontrol": """echo "$@" >> $FAKE/told""",
    "sacct": """printf 'JobID|State|NodeList\\n777|RUNNING|here\\n'""",
    "again": """export SLURM_JOB_ID=777 SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_NODEID=0 SLURM_PROCID=0
        export SLURM_LOCALID=0; exec bash $FAKE/job.sh > $FAKE/batch 2>&1 < /dev/null""",
}


def wait_for(file: Path, text: str = "", seconds: float = 180) -> None:
    began = monotonic()
    while not (file.exists() and text in file.read_text()):
        assert monotonic() - began < seconds, f"{file} without {text}"
        sleep(0.1)


def test_the_warning_makes_a_run_put_by_what_it_has_and_slurm_start_it_again(
    tmp_path: Path, small_model: Path, small_root: Path
) -> None:
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, script in SLURM.items():
        (fake / name).write_text(f"#!/bin/bash\n{script}\n")
        (fake / name).chmod(0o755)
    command = [
        *(sys.executable, "-m", "trace_cl", "-m", "hydra/launcher=slurm_node", "hydra.launcher.partition=gpu"),
        *("hydra.launcher.tasks_per_node=1", "hydra.launcher.gpus_per_node=null", f"runs_dir={tmp_path}/runs"),
        *("benchmark=trace", f"benchmark.root={small_root}", f"model.path={small_model}", "benchmark.order=[FOMC]"),
        *("training.global_batch=1", "benchmark.tasks={FOMC:{epochs:20}}", "evaluation.zero_shot=false"),
    ]
    here = {**os.environ, "FAKE": str(fake), "PYTHON": sys.executable, "PATH": f"{fake}:{os.environ['PATH']}"}
    here |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    sweep = subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        began = monotonic()
        while not list(tmp_path.glob("runs/*/*/*/seed1/config.yaml")):
            assert monotonic() - began < 180, sweep.poll()
            sleep(0.1)
        run = only_run(tmp_path / "runs")
        wait_for(run / "train.jsonl", '"step": 5')
        job = (fake / "job.sh").read_text()
        assert "#SBATCH --signal=USR1@300\n" in job
        assert "#SBATCH --ntasks-per-node=1\n" in job
        assert (fake / "setup").read_text() == "SLURM_KILL_BAD_EXIT=1\n"
        [task] = [p for p in os.listdir("/proc") if p.isdigit() and b"submitit.core._submit" in cmdline(p)]
        os.kill(int(task), signal.SIGUSR1)
        wait_for(fake / "told")
        assert (fake / "told").read_text() == "requeue 777\n"
        kept = len((run / "train.jsonl").read_text().splitlines())
        assert not (run / "matrix.csv").exists()
        assert list(run.glob("**/exp_avg-*.safetensors")), "what AdamW knows is put by"
        while cmdline(task):
            sleep(0.1)
        assert len((run / "train.jsonl").read_text().splitlines()) == kept < 240

        subprocess.Popen(["bash", str(fake / "again")], env=here)  # as Slurm does with what is requeued
        wait_for(run / "matrix.csv", "\n1,")
        assert len((run / "train.jsonl").read_text().splitlines()) == 240
        said, _ = sweep.communicate(timeout=60)
        assert sweep.returncode == 0, said
        assert f"| {run.parent.name} | 1 |" in said
    finally:
        sweep.kill()


def cmdline(process: str) -> bytes:
    """What a process was started with; nothing where it is no more."""
    try:
        return Path("/proc", process, "cmdline").read_bytes()
    except OSError:
        return b""

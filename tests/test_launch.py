"""The launch files are what they claim to be, as far as that shows without a cluster."""

import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from vitfm import main

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)
    assert (LAUNCH / name).read_text().startswith("#!/usr/bin/env bash\n")


def test_the_tpu_script_teaches_when_it_is_called_wrongly() -> None:
    done = subprocess.run(["bash", str(LAUNCH / "tpu_vm.sh"), "name"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "launch/tpu_vm.sh TPU_NAME ZONE BUCKET --config=configs/clip.py" in done.stdout


def test_the_tpu_script_starts_every_worker(tmp_path: pathlib.Path) -> None:
    """With a `gcloud` that writes down what it is asked, and does the last of it: to write the command line."""
    fakes = {
        "gcloud": f"""
            printf '%s\\n' "$@" >> {tmp_path}/asked
            last="${{!#}}"
            [[ $last != *vitfm.sh* ]] || bash -c "${{last#--command=}}"
            """,
        "tmux": "",
    }
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    words = ["--config=configs/clip.py:tiny", "--config.total=10 steps", """--config.evals={'a': "$HOME"}"""]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run(["bash", str(LAUNCH / "tpu_vm.sh"), "tpu", "zone", "bucket", *words], check=True, env=environment)
    asked = (tmp_path / "asked").read_text()
    assert asked.count("--worker=all") == 4
    assert asked.count("--zone=zone") == 4
    assert "gcsfuse --implicit-dirs bucket ~/runs" in asked
    line = shlex.split((tmp_path / "vitfm.sh").read_text())
    assert line[line.index("vitfm.main") + 1 :] == ["--distributed=auto", "--workdir=$HOME/runs/clip", *words]


def test_slurm_gives_each_task_a_gpu_and_time_to_save() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # JAX takes one GPU a task under Slurm.
    assert options["signal"].startswith("TERM@")  # To the tasks, not to the script.
    assert "#SBATCH --requeue" in text
    assert "-eq 143" in text


def test_the_jobset_runs_one_process_a_host() -> None:
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert container["resources"]["limits"]["google.com/tpu"] * job["parallelism"] == rows * columns
    assert pod["volumes"][0]["name"] == container["volumeMounts"][0]["name"]
    assert container["command"] == ["python", "-m", "vitfm.main"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    arguments, overrides = main._parse(container["args"])  # The command line is one that vitfm reads.
    assert arguments.distributed == "auto"
    assert arguments.workdir.startswith(container["volumeMounts"][0]["mountPath"])
    assert not overrides


def test_the_readme_names_every_file() -> None:
    text = (LAUNCH / "README.md").read_text()
    files = [path.name for path in LAUNCH.iterdir() if path.is_file() and path.name != "README.md"]
    assert files
    assert all(f"launch/{name}" in text for name in files)

"""What starts the audit every night: crontab, Kubernetes, Airflow; what of it can be tried without any of them is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ray
import yaml
from test_docs import ROOT, blocks
from typer.main import get_command

from confscore.audit.settings import AuditConfig, load_job
from confscore.cli import app
from confscore.config import parse

PAGE = ROOT / "docs" / "operations.md"
MANIFEST = ROOT / "docs" / "kuberay" / "audit-cronjob.yaml"
RAY_JOBS = Path(ray.__file__).parent / "dashboard" / "modules" / "job"


def manifest() -> dict[str, dict]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}


def data() -> dict[str, str]:
    return manifest()["ConfigMap"]["data"]


def check_options(words: list[str]) -> None:
    known = {option for each in get_command(app).commands["audit"].params for option in each.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known


# -- cron ----------------------------------------------------------------------------------------------------


def crontab() -> list[str]:
    return [line for block in blocks(PAGE, "crontab") for line in block.splitlines() if line[0].isdigit()]


def play(folder: Path, line: str, name: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a crontab line as cron would, with a program of that name in place of the real one."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    command = line.split(maxsplit=5)[5]
    assert "%" not in command, "cron ends a line there"
    command = command.replace("/srv/confscore", str(folder))
    place = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        ["/bin/sh", "-c", command], env=place, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("status", [0, 1, 3])
def test_cron_mails_the_verdict_of_a_night_that_is_not_ok_and_nothing_else(tmp_path: Path, status: int) -> None:
    script = f'echo "$@" > seen; echo "the log" >&2; [ {status} = 3 ] || echo "the verdict"; exit {status}'
    done = play(tmp_path, crontab()[0], "confscore", script)
    assert done.stdout == {0: "", 1: "the verdict\nthe log\n", 3: "the log\n"}[status]
    command, *words = (tmp_path / "seen").read_text().split()
    assert command == "audit"
    check_options(words)


@pytest.mark.parametrize("status", [0, 1])
def test_a_job_that_cron_submits_is_mailed_if_it_failed(tmp_path: Path, status: int) -> None:
    done = play(tmp_path, crontab()[1], "ray", f'echo "$@" > seen; echo "the verdict"; exit {status}')
    assert done.stdout == ("the verdict\n" if status else "")
    ours = (tmp_path / "seen").read_text().partition(" -- ")[2].split()
    assert ours[0] == "python"
    assert (ROOT / ours[1]).exists()
    check_options(ours[2:])


def test_ray_says_the_exit_status_only_in_words() -> None:
    """What the page and the manifest rest on, in the release that is installed."""
    assert 'f"failed with exit code {return_code}, "' in (RAY_JOBS / "job_supervisor.py").read_text()
    submit = (RAY_JOBS / "cli.py").read_text().partition("def submit(")[2].partition("@job_cli_group.command")[0]
    ends = re.findall(r"if (.*):\n +sys\.exit\((.*)\)", submit)
    assert ends == [("job_status == JobStatus.FAILED", "1")]


# -- Kubernetes ----------------------------------------------------------------------------------------------


def test_the_cronjob_runs_a_configuration_that_is_valid(tmp_path: Path) -> None:
    audit = yaml.safe_load(data()["audit.yaml"])
    assert audit["score"] == "/etc/confscore/score.yaml"
    score = tmp_path / "score.yaml"
    score.write_text(data()["score.yaml"])
    job = load_job(AuditConfig.model_validate({**audit, "score": str(score)}))
    assert job is not None
    assert not job.output.path.startswith(audit["output"])
    group = spec()["rayClusterSpec"]["workerGroupSpecs"][0]
    assert job.cluster.actor_range[1] == group["maxReplicas"]
    command, name, *words = spec()["entrypoint"].split()
    assert (command, name) == ("confscore", "audit")
    check_options(words)


def spec() -> dict:
    return yaml.safe_load(data()["rayjob.yaml"])["spec"]


def test_the_cluster_is_that_of_the_other_manifest() -> None:
    """Which was held against KubeRay's schemas; a difference has to be held against them too."""
    settings, rayjob = yaml.safe_load_all((ROOT / "docs" / "kuberay" / "rayjob.yaml").read_text())
    theirs, ours = rayjob["spec"], spec()
    head = ours["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    webhook = head["containers"][0]["env"].pop()
    assert webhook["name"] == "CONFSCORE_WEBHOOK"
    assert set(webhook["valueFrom"]) == {"secretKeyRef"}
    assert head["volumes"][0]["configMap"].pop("name") == manifest()["ConfigMap"]["metadata"]["name"]
    del theirs["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
    assert ours["rayClusterSpec"] == theirs["rayClusterSpec"]
    assert set(theirs) - set(ours) == {"backoffLimit"}, "another try is the CronJob's to make"
    assert parse(yaml.safe_load(data()["score.yaml"]), "score.yaml") == parse(
        yaml.safe_load(settings["data"]["score.yaml"]), "score.yaml"
    )


def test_one_runs_at_a_time_and_verdicts_are_not_tried_again() -> None:
    cron = manifest()["CronJob"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    job = cron["jobTemplate"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "as a pod failure policy needs it"
    (ended,) = (each for each in job["podFailurePolicy"]["rules"] if "onExitCodes" in each)
    assert (ended["action"], ended["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    pod = job["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == manifest()["ConfigMap"]["metadata"]["name"]
    assert pod["containers"][0]["command"][1].rpartition("/")[2] in data()
    assert pod["serviceAccountName"] == manifest()["ServiceAccount"]["metadata"]["name"]
    (subject,) = manifest()["RoleBinding"]["subjects"]
    assert subject["name"] == pod["serviceAccountName"]


def test_the_pod_may_do_what_its_script_does_and_no_more() -> None:
    named = yaml.safe_load(data()["rayjob.yaml"])["metadata"]["name"]
    may = {(verb, *rule.get("resourceNames", ())) for rule in manifest()["Role"]["rules"] for verb in rule["verbs"]}
    assert may == {("create",), ("get", named), ("delete", named), ("list", named), ("watch", named)}
    done = set(re.findall(r"kubectl (\w+)", data()["start.sh"]))
    assert done == {"get", "create", "delete"}  # delete waits, by list and watch


KUBECTL = """
echo "$*" >> {folder}/asked
case "$*" in
  *"output name"*) [ ! -f {folder}/exists ] || echo rayjob.ray.io/confscore-audit ;;
  *jobDeploymentStatus*) cat {folder}/deployment ;;
  *jobStatus*) echo {status} ;;
  *message*) cat {folder}/message ;;
  create*) echo Failed > {folder}/deployment; touch {folder}/exists ;;
  delete*) rm {folder}/exists ;;
esac
"""
SAID = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}\n"


def start(folder: Path, status: str, kubectl: str = KUBECTL) -> subprocess.CompletedProcess[str]:
    """Run the pod's script against a cluster that is played by files."""
    programs = folder / "bin"
    programs.mkdir()
    # While the script sleeps, a RayJob that is at work comes to its end.
    for name, script in (
        ("kubectl", kubectl.format(folder=folder, status=status)),
        ("sleep", f"echo Failed > {folder}/deployment"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    (folder / "start.sh").write_text(data()["start.sh"])
    place = {"PATH": f"{programs}:/usr/bin:/bin"}
    shell = shutil.which("sh") or "/bin/sh"
    words = [shell, str(folder / "start.sh")]
    return subprocess.run(words, env=place, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("status", [1, 2, 3, 137])
def test_the_pod_ends_with_the_exit_status_of_the_audit(tmp_path: Path, status: int) -> None:
    (tmp_path / "message").write_text(SAID.format(status, "ValueError: failed with exit code 9,\nWARN 2026-10-12: …"))
    done = start(tmp_path, "FAILED")
    assert done.returncode == status, done.stderr
    assert done.stdout.endswith("WARN 2026-10-12: …\n")
    asked = (tmp_path / "asked").read_text()
    assert asked.count("create --filename /etc/confscore/rayjob.yaml") == 1
    assert "delete" not in asked


def test_a_night_that_is_ok_ends_with_0(tmp_path: Path) -> None:
    assert start(tmp_path, "SUCCEEDED").returncode == 0


@pytest.mark.parametrize(
    "message", ["", "Job submission has failed. Reason: BackoffLimitExceeded.", "Ray head pod not found."]
)
def test_what_says_no_exit_status_is_an_audit_that_failed(tmp_path: Path, message: str) -> None:
    (tmp_path / "message").write_text(message)
    assert start(tmp_path, "FAILED").returncode == 3


def test_a_rayjob_of_last_night_is_removed_and_one_at_work_is_waited_for(tmp_path: Path) -> None:
    for name, before in (("old", "Complete"), ("at-work", "Running"), ("just-begun", "")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "exists").touch()
        (folder / "deployment").write_text(before)
        (folder / "message").write_text(SAID.format(2, "FAIL …"))
        assert start(folder, "FAILED").returncode == 2
        asked = (folder / "asked").read_text()
        assert ("delete rayjob confscore-audit" in asked) == (name == "old")
        assert ("create" in asked) == (name == "old")


def test_a_cluster_that_does_not_answer_is_no_verdict(tmp_path: Path) -> None:
    for name, script in (("at-once", "exit 1"), ("later", 'case "$*" in *jsonpath*) exit 1 ;; esac')):
        folder = tmp_path / name
        folder.mkdir()
        assert start(folder, "FAILED", script).returncode == 3


# -- Airflow -------------------------------------------------------------------------------------------------


def test_the_dag_is_python_and_takes_a_warning_for_no_failure() -> None:
    (shown,) = blocks(PAGE, "python")
    calls = {
        node.func.id: {each.arg: each.value for each in node.keywords}
        for node in ast.walk(ast.parse(shown))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    compile(shown, str(PAGE), "exec")
    operator = calls["KubernetesPodOperator"]
    assert ast.literal_eval(operator["skip_on_exit_code"]) == 1
    assert ast.literal_eval(calls["DAG"]["max_active_runs"]) == 1
    assert ast.literal_eval(operator["image"]) in data()["rayjob.yaml"]
    assert ast.literal_eval(operator["cmds"]) == ["confscore"]
    name, *words = ast.literal_eval(operator["arguments"])
    assert name == "audit"
    check_options(words)

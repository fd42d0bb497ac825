"""What the cluster launcher is given is what Ray and EC2 take; docs/clusters.md says what was not tried."""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount
from typer.main import get_command

from confscore.cli import app
from confscore.config import ClusterConfig, parse

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```yaml\n(# cluster.*?)^```", (ROOT / "docs" / "clusters.md").read_text(), re.M | re.S)


def aws() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def elsewhere() -> dict[str, dict]:
    """Return cluster.yaml as it is with each block of the documentation in place of its own sections."""
    blocks = [yaml.safe_load(block) for block in BLOCKS]
    return {block["provider"]["type"]: {**aws(), **block} for block in blocks}


@pytest.mark.parametrize("cloud", ["aws", *elsewhere()])
def test_rays_schema_takes_it(cloud: str) -> None:
    config = prepare_config(aws() if cloud == "aws" else elsewhere()[cloud])
    validate_config(config)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"]["GPU"] == 0
    assert head["max_workers"] == 0
    assert {name: each["min_workers"] for name, each in types.items()} == {"gpu_on_demand": 0, "gpu_spot": 0}
    assert all(each["resources"]["GPU"] == 1 for each in types.values())
    assert sum(each["max_workers"] for each in types.values()) == config["max_workers"]
    assert ClusterConfig().actor_range[1] == config["max_workers"]


def test_the_schema_finds_mistakes() -> None:
    for wrong in ({"head_node_typ": "head"}, {"head_node_type": "heads"}, {"max_workers": "8"}):
        with pytest.raises(Exception, match=r"head_node|is not of type"):
            validate_config(prepare_config({**aws(), **wrong}))


def test_the_documentation_has_the_other_clouds() -> None:
    assert set(elsewhere()) == {"gcp", "azure"}


def needed() -> set[str]:
    """Return the packages that confscore needs, and what these need, beside Ray and vLLM."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {Requirement(each).name: each for each in project["optional-dependencies"]["vllm"]}
    left = [*project["dependencies"], *(extra[name] for name in extra if name not in ("vllm", "ray", "transformers"))]
    found: set[str] = set()
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            left += metadata.requires(name) or []
    return found


def test_the_set_up_brings_what_confscore_needs_from_the_lock() -> None:
    commands = " ".join(aws()["setup_commands"])
    names = "|".join(re.findall(r"-e '\^\((.*?)\)=='", commands)).split("|")
    assert sorted(names) == sorted(needed())
    locked = re.findall(r"^(.+)==", (ROOT / "requirements.lock").read_text(), re.M)
    assert set(names) <= set(locked)
    assert "--no-deps" in commands


def test_the_set_up_leaves_alone_what_the_image_has(tmp_path: Path) -> None:
    """The image's own versions differ from the lock's, and its names are spelt in other ways."""
    pip = tmp_path / "pip"
    pip.write_text(
        "#!/bin/sh\nprintf 'Jinja2==3.1.4\\nPyYAML==6.0.1\\ntyping_extensions==4.12.2\\nvllm==0.29.0+cu130\\n'\n"
    )
    pip.chmod(0o755)
    for command in aws()["setup_commands"][:2]:
        here = command.replace("/home/ray/requirements.lock", str(ROOT / "requirements.lock"))
        environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["bash", "-c", here], env=environment, check=True, timeout=60)
    brought = (tmp_path / "missing.txt").read_text().split()
    assert set(brought) <= set((ROOT / "requirements.lock").read_text().split())
    assert {line.partition("==")[0] for line in brought} == needed() - {"jinja2", "pyyaml", "typing-extensions"}


def test_the_first_engine_runs_on_demand_and_the_others_on_spot_instances() -> None:
    """As the autoscaler decides for so many engines at once."""
    config = AutoscalingConfig(prepare_config(aws()))
    engine = ResourceRequestUtil.make({"GPU": 1, "CPU": 1})

    def started(engines: int) -> dict[str, int]:
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),
            resource_requests=[ResourceRequestByCount(request=engine, count=engines)],
        )
        return {each.instance_type: each.count for each in ResourceDemandScheduler(None).schedule(request).to_launch}

    assert started(1) == {"gpu_on_demand": 1}
    assert started(3) == {"gpu_on_demand": 1, "gpu_spot": 2}
    assert started(20) == {"gpu_on_demand": 1, "gpu_spot": 7}


# -- against a simulated EC2 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """Yield the configuration as Ray fills it out for an account that has the profiles."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "of-no-worth")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # the key pair is written below it
        iam = boto3.client("iam")
        for name in ("confscore-head", "confscore-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(aws()))
        yield bootstrap_aws(config)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore:Could not find AMI")
def test_ec2_takes_every_node_type(ec2: dict) -> None:
    """Unknown keys and instance types, and profiles that are not there, are refused by the client or by moto."""
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(ec2["provider"], ec2["cluster_name"])
    for name, kind in ec2["available_node_types"].items():
        provider.create_node(kind["node_config"], {"ray-user-node-type": name}, 1)
    found = boto3.resource("ec2", region_name=ec2["provider"]["region"]).instances.all()
    types = {
        {tag["Key"]: tag["Value"] for tag in instance.tags}["ray-user-node-type"]: (
            instance.instance_type,
            instance.iam_instance_profile["Arn"].rpartition("/")[2],
            instance.instance_lifecycle,
        )
        for instance in found
    }
    assert types == {
        "head": ("m6i.2xlarge", "confscore-head", None),
        "gpu_on_demand": ("g6.2xlarge", "confscore-worker", None),
        "gpu_spot": ("g6.2xlarge", "confscore-worker", "spot"),
    }


def test_the_simulation_finds_mistakes(ec2: dict) -> None:
    from botocore.exceptions import ParamValidationError
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    provider = AWSNodeProvider(ec2["provider"], ec2["cluster_name"])
    config = copy.deepcopy(ec2)
    node = config["available_node_types"]["gpu_spot"]["node_config"]
    with pytest.raises(ParamValidationError, match="InstanceMarketOption"):
        provider.create_node({**node, "InstanceMarketOption": {}}, {}, 1)
    node["InstanceType"] = "g6.3xlarge"
    with pytest.raises(ValueError, match=r"g6\.3xlarge is not available"):
        AWSNodeProvider.fillout_available_node_types_resources(config)


def test_the_resources_are_those_of_the_instance_types(ec2: dict) -> None:
    import boto3

    kinds = ec2["available_node_types"]
    client = boto3.client("ec2", region_name=ec2["provider"]["region"])
    asked = sorted({kind["node_config"]["InstanceType"] for kind in kinds.values()})
    told = client.describe_instance_types(InstanceTypes=asked)["InstanceTypes"]
    sizes = {each["InstanceType"]: each for each in told}
    for kind in kinds.values():
        size = sizes[kind["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in size.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"]["CPU"] <= size["VCpuInfo"]["DefaultVCpus"]
        assert kind["resources"].get("GPU", 0) == gpus


# -- Kubernetes ----------------------------------------------------------------------------------------------


def rayjob() -> tuple[dict, dict]:
    settings, job = yaml.safe_load_all((ROOT / "docs" / "kuberay" / "rayjob.yaml").read_text())
    return settings, job["spec"]


def test_the_rayjob_runs_a_configuration_that_is_valid() -> None:
    settings, spec = rayjob()
    (name,) = settings["data"]
    config = parse(yaml.safe_load(settings["data"][name]), name)
    assert config.cluster.actor_range[1] == spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert head["volumes"] == [{"name": mount["name"], "configMap": {"name": settings["metadata"]["name"]}}]
    confscore, command, *options = spec["entrypoint"].split()
    assert (confscore, command) == ("confscore", "score")
    assert f"{mount['mountPath']}/{name}" in options
    known = {opt for param in get_command(app).commands[command].params for opt in param.opts}  # type: ignore[attr-defined]
    assert {each for each in options if each.startswith("--")} <= known


def test_the_rayjobs_workers_have_gpus_and_start_when_asked_for() -> None:
    cluster = rayjob()[1]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    for template, gpus in ((cluster["headGroupSpec"]["template"], None), (group["template"], "1")):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus
        assert f"ray{cluster['rayVersion']}-" in container["image"]
        assert all("valueFrom" in each for each in container["env"] if "TOKEN" in each["name"])
    assert aws()["docker"]["image"].startswith(f"rayproject/ray-llm:{cluster['rayVersion']}-")


def test_ray_is_the_one_that_is_tested() -> None:
    version = metadata.version("ray")
    assert rayjob()[1]["rayClusterSpec"]["rayVersion"] == version
    assert f":{version}-" in aws()["docker"]["image"]

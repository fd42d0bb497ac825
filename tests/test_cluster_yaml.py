"""What the cluster launcher is given is what Ray and EC2 take; see docs/clusters.md for what has to be tried on a cloud."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

from confscore.config import ClusterConfig

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
        with pytest.raises(Exception, match="head_node|is not of type"):
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


# -- against a simulated EC2 ---------------------------------------------------------------------------------


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict]:
    """Yield the configuration as Ray fills it out for an account that has the profiles."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-no-worth")
    monkeypatch.setenv("HOME", str(tmp_path))  # the key pair is written below it
    with mock_aws():
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


def test_the_resources_are_those_of_the_instance_types(ec2: dict) -> None:
    import boto3

    kinds = ec2["available_node_types"]
    client = boto3.client("ec2", region_name=ec2["provider"]["region"])
    asked = sorted({kind["node_config"]["InstanceType"] for kind in kinds.values()})
    sizes = {each["InstanceType"]: each for each in client.describe_instance_types(InstanceTypes=asked)["InstanceTypes"]}
    for kind in kinds.values():
        size = sizes[kind["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in size.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"]["CPU"] <= size["VCpuInfo"]["DefaultVCpus"]
        assert kind["resources"].get("GPU", 0) == gpus

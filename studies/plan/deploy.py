"""A fleet as files that start it: Docker Compose for one host, Kubernetes for a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.setup import Setup
from dflash_sim.studies.plan.search import Plan
from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.launch import PORT, launch_environment, launch_words

_ALL = "0.0.0.0"
_NAMESPACE = "POD_NAMESPACE"
_SHARED_MEMORY = "32g"
_WEIGHTS = "/weights"  # where a server finds what the machine has of Hugging Face's files
# What SGLang's router calls ours; one that balances by what is in flight has two choices a time.
_POLICIES = {"least-loaded": "power_of_two"}


@dataclass(frozen=True)
class Servers:
    """Servers to be started, all alike.

    Parameters
    ----------
    router
        The policy of the router in front of them, by our name.
    about
        What they are for, a line each.
    """

    setup: Setup
    replicas: int
    router: str
    about: tuple[str, ...]


def fewest(found: Plan) -> Servers:
    """The fleet of a plan with the fewest GPUs."""
    fleet, q = found.fewest, found.question
    about = (fleet.title, q.demand.name, str(q.slo))
    return Servers(fleet.setup, fleet.replicas, q.router, about)


def compose(fleet: Servers) -> str:
    """A Docker Compose file: every server on GPUs of its own, behind a router."""
    tp = fleet.setup.tp
    services: dict[str, Any] = {}
    for k in range(fleet.replicas):
        devices = [str(k * tp + rank) for rank in range(tp)]
        gpus = {"driver": "nvidia", "device_ids": devices, "capabilities": ["gpu"]}
        services[f"server-{k}"] = {
            "image": image(fleet),
            "environment": {"HF_HOME": _WEIGHTS, **launch_environment(fleet.setup)},
            "command": launch_words(fleet.setup, host=_ALL),
            "shm_size": _SHARED_MEMORY,
            "ipc": "host",
            "volumes": [f"~/.cache/huggingface:{_WEIGHTS}"],
            "deploy": {"resources": {"reservations": {"devices": [gpus]}}},
        }
    if fleet.replicas > 1:
        workers = [f"http://{name}:{PORT}" for name in services]
        services["router"] = {
            "image": image(fleet),
            "command": [*_router(fleet), "--worker-urls", *workers],
            "ports": [f"{PORT}:{PORT}"],
            "depends_on": list(services),
        }
    else:
        services["server-0"]["ports"] = [f"{PORT}:{PORT}"]
    return _head(fleet) + _yaml({"services": services})


def kubernetes(fleet: Servers) -> str:
    """Kubernetes objects: a Deployment of the servers, a router that finds them, a Service."""
    server, router = {"app": "sglang"}, {"app": "sglang-router"}
    gpus = {"nvidia.com/gpu": fleet.setup.tp}
    environment = [{"name": n, "value": v} for n, v in launch_environment(fleet.setup).items()]
    container = {
        "name": "sglang",
        "image": image(fleet),
        "command": launch_words(fleet.setup, host=_ALL),
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": gpus},
        "readinessProbe": {"httpGet": {"path": "/health", "port": PORT}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if environment:
        container["env"] = environment
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}}
    servers = {"containers": [container], "volumes": [shared]}
    entry, objects = server, [_deployment("sglang", server, fleet.replicas, servers)]
    if fleet.replicas > 1:
        entry = router
        # Of its own namespace: without it the router asks for the pods of the whole cluster.
        here = ["--service-discovery-namespace", f"$({_NAMESPACE})"]
        discovers = ["--service-discovery", "--selector", "app=sglang", *here]
        own = {"fieldRef": {"fieldPath": "metadata.namespace"}}
        routes = {
            "name": "router",
            "image": image(fleet),
            "command": [*_router(fleet), *discovers, "--service-discovery-port", str(PORT)],
            "env": [{"name": _NAMESPACE, "valueFrom": own}],
            "ports": [{"containerPort": PORT}],
        }
        account = {"serviceAccountName": "sglang-router", "containers": [routes]}
        objects += [*_may_list_pods(), _deployment("sglang-router", router, 1, account)]
    ports = [{"port": PORT, "targetPort": PORT}]
    objects.append(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sglang-entry"},
         "spec": {"selector": entry, "ports": ports}}
    )  # fmt: skip
    return _head(fleet) + "---\n".join(map(_yaml, objects))


def write_files(fleet: Servers, *, compose_to: Path | None, k8s_to: Path | None) -> list[Path]:
    """Write the files that are asked for, each whole or not at all."""
    written = []
    for path, make in ((compose_to, compose), (k8s_to, kubernetes)):
        if path is not None:
            write_whole(path, make(fleet))
            written.append(path)
    return written


def check_writes(compose_to: Path | None, k8s_to: Path | None) -> None:
    """Refuse one place for two files.

    Raises
    ------
    UsageError
        Both are to be written to the same file.
    """
    if compose_to is not None and compose_to == k8s_to:
        msg = (
            f"--write-compose and --write-k8s both name {compose_to}; give each a file of its own."
        )
        raise UsageError(msg)


def image(fleet: Servers) -> str:
    """The container of the release that was simulated."""
    return f"lmsysorg/sglang:v{fleet.setup.engine.version}"


def _router(fleet: Servers) -> list[str]:
    policy = _POLICIES.get(fleet.router, fleet.router.replace("-", "_"))
    listens = ["--host", _ALL, "--port", str(PORT)]
    return ["python3", "-m", "sglang_router.launch_router", "--policy", policy, *listens]


def _deployment(
    name: str, labels: dict[str, str], replicas: int, pod: dict[str, Any]
) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _may_list_pods() -> list[dict[str, Any]]:
    """The account of the router, and the right to see which servers there are."""
    named = {"name": "sglang-router"}
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    account = {"kind": "ServiceAccount", **named}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": named, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "subjects": [account],
            "roleRef": {"apiGroup": group, "kind": "Role", **named},
        },
    ]


def _head(fleet: Servers) -> str:
    """What the fleet is for, as comments; a name from a file ends no line early."""
    return "".join(f"# {' '.join(line.split())}\n" for line in fleet.about)


class _Plain(yaml.SafeDumper):
    """Writes what comes twice twice, where YAML has anchors that some tools do not read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False, width=10_000)

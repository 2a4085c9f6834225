"""Checks deploy/kubernetes/*.yaml: against the published schemas, and for what schemas cannot say.

manifests.py FILE...     prints each mistake as FILE: KIND/NAME: what; exits with 1 when there is any
"""

import copy
import re
import sys

import kubernetes_validate
import yaml

# The oldest and the newest Kubernetes that the forms are for.
VERSIONS = ["1.30", "1.37"]
KINDS = ["ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]


def against_schemas(doc):
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def restricted(pod):
    """Pod Security Standards, profile `restricted`."""
    common = pod.get("securityContext", {})
    for container in pod.get("initContainers", []) + pod["containers"]:
        own = container.get("securityContext", {})
        both = {**common, **own}
        name = container["name"]
        if both.get("runAsNonRoot") is not True or not both.get("runAsUser"):
            yield f"{name}: must run as a user by number who is not root"
        if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: no seccompProfile RuntimeDefault"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation must be false"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem must be true"
        if own.get("capabilities", {}) != {"drop": ["ALL"]}:
            yield f"{name}: must drop all capabilities and add none"
        if "requests" not in container.get("resources", {}) or "memory" not in container["resources"].get("limits", {}):
            yield f"{name}: no requests, or no limit of memory"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for volume in pod.get("volumes", []):
        if not {"configMap", "emptyDir"} & set(volume):
            yield f"volume {volume['name']}: neither configMap nor emptyDir"


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def pod_is_sound(pod, config, config_map):
    containers = pod.get("initContainers", []) + pod["containers"]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", [])}
    if mounted != set(volumes):
        yield f"volumes {sorted(volumes)} are not what is mounted, {sorted(mounted)}"
    maps = [volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume]
    if maps != [config_map]:
        yield f"mounts {maps}, the ConfigMap is {config_map}"
    ports = {port["name"]: port["containerPort"] for container in containers for port in container.get("ports", [])}
    told = {
        "http": config["listeners"][0]["address"],
        "metrics": config["metrics"]["address"],
        "health": config["health"]["address"],
    }
    for name, address in told.items():
        if address != f"0.0.0.0:{ports.get(name)}":
            yield f"port {name}: {ports.get(name)} in the pod, {address} in the configuration"
    proxy = [container for container in containers if "readinessProbe" in container]
    if len(proxy) != 1 or not {"startupProbe", "livenessProbe"} <= set(proxy[0]):
        yield "one container must have all three probes"
    # Those of other containers ask the proxy too, whose port has no name there.
    for container in [other for other in containers if other not in proxy]:
        for probe in ("startupProbe", "livenessProbe"):
            if probe in container and container[probe].get("httpGet", {}).get("port") != ports.get("health"):
                yield f"{container['name']}: {probe} does not ask the proxy's port for health"
    for container in proxy:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if container.get(probe, {}).get("httpGet", {}).get("port") != "health":
                yield f"{container['name']}: {probe} does not ask the port named health"
    limit = config.get("shutdown", {}).get("limit")
    if limit is not None and seconds(limit) != pod["terminationGracePeriodSeconds"]:
        yield f"shutdown.limit is {limit}, terminationGracePeriodSeconds {pod['terminationGracePeriodSeconds']}"
    # As the comment in the file computes it.
    sleep = max(
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for container in containers
    )
    needed = sleep + seconds(config.get("shutdown", {}).get("pre_stop_delay", "0s"))
    for app in config["apps"].values():
        needed += seconds(app["drain_timeout"]) + seconds(app.get("stop_timeout", "0s"))
    if pod["terminationGracePeriodSeconds"] < needed + 5:
        yield f"terminationGracePeriodSeconds is {pod['terminationGracePeriodSeconds']}, a stop may take {needed:.0f}"


def form_is_sound(docs):
    kinds = [doc["kind"] for doc in docs]
    if kinds != KINDS:
        yield "", f"has {kinds}, not {KINDS}"
        return
    config_map, deployment, service, budget, scaler = docs
    config = yaml.safe_load(config_map["data"]["conf.yaml"])
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    for doc, selector in [
        (deployment, deployment["spec"]["selector"]["matchLabels"]),
        (service, service["spec"]["selector"]),
        (budget, budget["spec"]["selector"]["matchLabels"]),
    ]:
        if not selector.items() <= labels.items():
            yield doc["kind"], f"selects {selector}, the pods have {labels}"
    target = scaler["spec"]["scaleTargetRef"]
    if (target["kind"], target["name"]) != ("Deployment", deployment["metadata"]["name"]):
        yield scaler["kind"], f"scales {target}"
    if "replicas" in deployment["spec"]:
        yield deployment["kind"], "replicas would undo what the HPA has set"
    named = {port["name"] for c in template["spec"].get("initContainers", []) + template["spec"]["containers"] for port in c.get("ports", [])}
    for port in service["spec"]["ports"]:
        if port["targetPort"] not in named:
            yield service["kind"], f"no port is named {port['targetPort']}"
    for what in [*restricted(template["spec"]), *pod_is_sound(template["spec"], config, config_map["metadata"]["name"])]:
        yield deployment["kind"], what


def mistakes(docs):
    for doc in docs:
        for what in against_schemas(doc):
            yield doc["kind"], what
    yield from form_is_sound(docs)


def planted(docs):
    """Mistakes that must be found: a check that finds nothing may look at nothing."""

    def with_change(change):
        changed = copy.deepcopy(docs)
        change(changed)
        return changed

    pod = lambda docs: docs[1]["spec"]["template"]["spec"]  # noqa: E731
    return {
        "an unknown key": with_change(lambda d: pod(d).update(terminationGracePeriod=5)),
        "a wrong type": with_change(lambda d: d[2]["spec"]["ports"][0].update(port="eighty")),
        "root": with_change(lambda d: pod(d)["containers"][0]["securityContext"].update(runAsUser=0)),
        "another port": with_change(
            lambda d: d[0]["data"].update({"conf.yaml": d[0]["data"]["conf.yaml"].replace(":9902", ":9903")})
        ),
        "too little time": with_change(lambda d: pod(d).update(terminationGracePeriodSeconds=5)),
        "a strange selector": with_change(lambda d: d[2]["spec"].update(selector={"app": "other"})),
        "no such volume": with_change(lambda d: pod(d)["volumes"].pop()),
    }


def main(files):
    failed = False
    for file in files:
        with open(file, encoding="utf-8") as text:
            docs = list(yaml.safe_load_all(text))
        for kind, what in mistakes(docs):
            failed = True
            print(f"{file}: {kind}: {what}")
        # Once is enough: it is the checks that are checked.
        for name, changed in planted(docs).items() if file == files[0] else ():
            if not list(mistakes(changed)):
                failed = True
                print(f"{file}: {name} was planted and not found")
    print(f"{len(files)} forms, Kubernetes {' and '.join(VERSIONS)}")
    return 1 if failed or not files else 0


sys.exit(main(sys.argv[1:]))

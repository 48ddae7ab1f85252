"""launch/gke.sh: the manifest, and what kubectl is asked to do with it."""

import copy

import kubernetes_validate
import pytest
import yaml

REQUIRED = {
    "--name": "align",
    "--accelerator": "v5e-256",
    "--image": "us-docker.pkg.dev/me/ieat/ieat_jax:1",
    "--volume": "claim:runs:/mnt/my runs",
    "--config": "configs/demo.py:align",
    "--workdir": "/mnt/my runs/align",
}
TRICKY = '--config.note=a "b" \\ $(HOME) $$ #c: {d}'


def arguments(*more, without=(), **changed):
    given = REQUIRED | {f"--{name}": value for name, value in changed.items()}
    return [*(word for name, value in given.items() if name not in without for word in (name, value)), *more]


def manifest(cluster, *more, **changed):
    code, out, err = cluster.run("gke.sh", "--dry-run", *arguments(*more, **changed))
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, **replicated["template"]}


def test_a_slice(cluster):
    jobset = manifest(cluster, "--config.train.steps=10", TRICKY)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["name"] == "align"
    assert "kueue.x-k8s.io/queue-name" not in jobset["metadata"]["labels"]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 10
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    spec = replicated["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (64, 64, 0)
    by_code, by_condition = spec["podFailurePolicy"]["rules"]
    assert by_code["onExitCodes"]["values"] == [75]
    assert by_condition["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"], pod["hostNetwork"]) == ("Never", 300, True)
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    (container,) = pod["containers"]
    assert container["name"] == by_code["onExitCodes"]["containerName"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    received = [word.replace("$$", "$") for word in container["command"]]  # as Kubernetes does
    assert received == [
        *("python", "-m", "ieat_jax.train", "--config", "configs/demo.py:align"),
        *("--workdir", "/mnt/my runs/align", "--config.train.steps=10", TRICKY),
    ]
    assert "$(HOME)" not in container["command"][-1].replace("$$", "")
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert "XLA_FLAGS" not in variables
    flags = variables["LIBTPU_INIT_ARGS"].split()
    assert len(flags) == 6
    assert flags[-1] == "--xla_tpu_scoped_vmem_limit_kib=98304"
    assert {"name": "volume-1", "mountPath": "/mnt/my runs"} in container["volumeMounts"]
    assert {"name": "volume-1", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]


def test_every_option(cluster):
    code, out, err = cluster.run(
        "gke.sh", "--dry-run", "--slices=4", "--queue=tpus", "--max-restarts=3", "--spot", "--service-account=writer",
        "--namespace=me", "--context=gke_me_east_big", "--volume=bucket:my.data:/data",
        *arguments(accelerator="v5p-128"), LIBTPU_INIT_ARGS="--xla_tpu_scoped_vmem_limit_kib=1",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("# kubectl --context gke_me_east_big --namespace me apply -f -\n")
    jobset = yaml.safe_load(out)
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "tpus"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 4
    spec = job(jobset)["spec"]
    assert spec["parallelism"] == spec["completions"] == 16
    assert spec["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == "writer"
    assert "hostNetwork" not in pod
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert pod["volumes"][1]["csi"]["volumeAttributes"]["bucketName"] == "my.data"
    assert pod["containers"][0]["env"][1]["value"].split()[-1] == "--xla_tpu_scoped_vmem_limit_kib=1"  # the last wins


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    "more",
    [(TRICKY,), ("--slices=2", "--queue=q", "--spot", "--service-account=w", "--volume=bucket:b:/data")],
    ids=["few options", "many options"],
)
def test_kubernetes_takes_the_jobs(cluster, version, more):
    found = job(manifest(cluster, *more))
    kubernetes_validate.validate(found, version, strict=True)
    wrong = copy.deepcopy(found)
    wrong["spec"]["backofLimit"] = wrong["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_kubectl_gets_the_manifest(cluster):
    cluster.fake("kubectl", 'cat >"$NOTES/manifest"')
    code, out, err = cluster.run("gke.sh", *arguments("--namespace", "me"))
    assert (code, err) == (0, "")
    assert cluster.calls() == [["kubectl", "--namespace", "me", "apply", "-f", "-"]]
    assert yaml.safe_load(cluster.noted("manifest")) == manifest(cluster)
    assert "kubectl --namespace me delete jobset align" in out


def test_what_kubectl_says_is_not_lost(cluster):
    cluster.fake("kubectl", "echo 'no such cluster' >&2; exit 7")
    code, out, err = cluster.run("gke.sh", *arguments())
    assert (code, out, err) == (7, "", "no such cluster\n")


def test_without_kubectl(cluster, bare_path):
    assert cluster.run("gke.sh", "--dry-run", *arguments(), PATH=bare_path)[0] == 0
    code, _, err = cluster.run("gke.sh", *arguments(), PATH=bare_path)
    assert code == 2
    assert "no kubectl here" in err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (arguments(without=["--image"]), "--image is missing"),
        (arguments(without=["--volume"]), "is on no --volume"),
        (arguments(workdir="/mnt/my runs-2/align"), "is on no --volume"),
        (arguments(workdir="gs://runs/align"), "mount the bucket"),
        (arguments(workdir="runs/align"), "must be a path from /"),
        (arguments(accelerator="v5e-255"), "v5e-255 is not known; one of: v5e-1 v5e-4"),
        (arguments(name="Align"), "--name Align must be"),
        (arguments(name="a" * 41), "40 small letters"),
        (arguments(volume="disk:runs:/mnt"), "KIND must be claim or bucket"),
        (arguments(volume="claim:runs"), "must be claim:NAME:/PATH"),
        (arguments("--slices", "0"), "--slices 0 must be a whole number, 1 or more"),
        (arguments("--max-restarts", "0"), "1 or more"),
        (arguments("--queue", "My Queue"), "--queue My Queue must be"),
        (arguments("--keep"), "--keep is not an option"),
        (arguments("--spot=yes"), "--spot takes no value"),
        (arguments("--slices"), "--slices needs a value"),
        (arguments("--config.train.steps"), "--config.FIELD=VALUE"),
        (arguments("train"), "train: expected an option"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_told_in_a_line(cluster, wrong, told):
    cluster.fake("kubectl")
    code, out, err = cluster.run("gke.sh", *wrong)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert told in err
    assert cluster.calls() == []


@pytest.mark.parametrize("script", ["gke.sh", "tpu_vm.sh", "slurm.sh"])
def test_help_names_every_option(cluster, script):
    code, out, err = cluster.run(script, "--help")
    assert (code, err) == (0, "")
    text = (cluster.root / "launch" / script).read_text()
    options = [
        name
        for kind in ("needed", "taken", "repeated", "switches")
        for name in text.split(f"\n{kind}=(")[1].split(")")[0].split()
    ]
    assert len(options) > 8
    assert [name for name in options if f"--{name}" not in out] == []
    assert "shellcheck" not in out

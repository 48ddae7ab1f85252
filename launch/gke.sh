#!/usr/bin/env bash
# Training on TPU slices of a GKE cluster: writes a JobSet and gives it to kubectl.
#
#   bash launch/gke.sh --name align --accelerator v5e-256 --image us-docker.pkg.dev/me/ieat/ieat_jax:1 \
#       --volume claim:runs:/mnt/runs --config configs/mine.py:align --workdir /mnt/runs/align \
#       --config.train.steps=20000
#
#   --name NAME             of the JobSet
#   --accelerator NAME      v5e-N, v5p-N or v6e-N: ieat_jax/costs/hardware.py has the list
#   --image IMAGE           with ieat_jax and the recipes in it, such as launch/Dockerfile makes
#   --config FILE[:ARG]     the recipe, as the image has it; --config.FIELD=VALUE sets any of its fields
#   --workdir PATH          the run's folder, on one of the volumes
#   --volume KIND:NAME:PATH mount it there; KIND is claim (a PersistentVolumeClaim: Filestore, Lustre, ...) or bucket
#                           (by the cluster's Cloud Storage FUSE driver); may be given again
#   --slices N              several slices, joined by Multislice (1)
#   --queue NAME            of Kueue, in the namespace
#   --max-restarts K        after failures (10). Stops at request (preemption, maintenance) do not count
#   --spot                  on spot nodes
#   --service-account NAME  of Kubernetes, with access to buckets
#   --namespace NAME, --context NAME   as kubectl takes them
#   --dry-run               print the manifest and start nothing
#
# The cluster needs JobSet 0.6 or newer. Flags in LIBTPU_INIT_ARGS are added to libtpu's. To stop the run, with its
# state saved: kubectl delete jobset NAME. Started again with the same --workdir, it goes on from there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# shellcheck source-path=SCRIPTDIR source=machines.sh
. "$(dirname "${BASH_SOURCE[0]}")/machines.sh"

needed=(name accelerator image config workdir)
taken=(slices queue max-restarts service-account namespace context)
repeated=(volume)
switches=(spot dry-run)
read_options "$@"
NAME_PATTERN='[a-z0-9]([-a-z0-9]*[a-z0-9])?'
match name '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "40 small letters, digits and - at most, like align-2"
match image '[^[:space:]]+' "the name of an image"
for name in queue service-account namespace; do
  match "$name" "$NAME_PATTERN" "the name of something in the cluster"
done
find_slice "${option[accelerator]}"
slices=$(number slices 1 1)
restarts=$(number max-restarts 10 1)
training_command

# A string as YAML and JSON write it.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

# The manifest's parts that are repeated or optional.
arguments=
for word in "${training[@]}"; do
  arguments+="
                    - $(quoted "${word//\$/\$\$}")" # Kubernetes would replace $(NAME); $$ is a $
done
mounts='
                    - {name: shm, mountPath: /dev/shm}'
volumes='
                - {name: shm, emptyDir: {medium: Memory}} # what Grain'"'"'s processes share'
found=
annotations=
network='
              hostNetwork: true # between slices as fast as the machines'"'"' own network
              dnsPolicy: ClusterFirstWithHostNet'
number=0
while IFS=: read -r kind source path; do
  number=$((number + 1))
  volume=volume-$number
  [[ $source =~ ^[a-z0-9]([-._a-z0-9]*[a-z0-9])?$ && $path =~ ^/[^:]+$ ]] ||
    fail "--volume $kind:$source:$path must be claim:NAME:/PATH or bucket:NAME:/PATH"
  case $kind in
    claim)
      volumes+="
                - {name: $volume, persistentVolumeClaim: {claimName: $source}}"
      ;;
    bucket)
      annotations='
              annotations: {gke-gcsfuse/volumes: "true"}'
      network= # the driver does not serve pods on the host network on most clusters
      # Checkpoints are renamed as whole folders once they are complete.
      volumes+="
                - name: $volume
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $source
                      mountOptions: implicit-dirs,rename-dir-limit=200000"
      ;;
    *) fail "--volume $kind:$source:$path: KIND must be claim or bucket" ;;
  esac
  mounts+="
                    - {name: $volume, mountPath: $(quoted "$path")}"
  [[ ${option[workdir]}/ != "${path%/}"/* ]] || found=1
done < <(given volume)
[[ -n $found ]] || fail "--workdir ${option[workdir]} is on no --volume: it would be lost with the pods;" \
  "give --volume claim:NAME:PATH or --volume bucket:NAME:PATH with a PATH above it"
labels=${option[queue]:+"
    kueue.x-k8s.io/queue-name: ${option[queue]}"}
account=${option[service-account]:+"
              serviceAccountName: ${option[service-account]}"}
spot=${option[spot]:+'
                cloud.google.com/gke-spot: "true"
              tolerations:
                - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}'}

# A slice is a Job of the JobSet, a host is a pod of the Job. When one pod fails its Job fails, and all slices start
# again together: every process must be new for them to find each other.
manifest() {
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${option[name]}
  labels:
    app.kubernetes.io/name: ieat-jax$labels
  annotations:
    # All pods of a slice in one node pool, and no others:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - name: stoppedAtRequest # what podFailurePolicy below tells apart: it may happen again and again
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $slices
      template:
        spec:
          completionMode: Indexed
          parallelism: $slice_hosts
          completions: $slice_hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [$STOPPED]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            metadata:
              labels: {app.kubernetes.io/name: ieat-jax}$annotations
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300 # to save in$network$account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $slice_gke
                cloud.google.com/gke-tpu-topology: $slice_topology$spot
              containers:
                - name: train
                  image: $(quoted "${option[image]}")
                  command:$arguments
                  env:
                    - {name: PYTHONUNBUFFERED, value: "1"}
                    - name: LIBTPU_INIT_ARGS
                      value: $(quoted "${libtpu_init_args//\$/\$\$}")
                  resources:
                    limits: {google.com/tpu: $slice_chips}
                  volumeMounts:$mounts
              volumes:$volumes
END
}

kubectl=(kubectl)
[[ -z ${option[context]:-} ]] || kubectl+=(--context "${option[context]}")
[[ -z ${option[namespace]:-} ]] || kubectl+=(--namespace "${option[namespace]}")
if [[ -n ${option[dry-run]:-} ]]; then
  printf '# '
  show "${kubectl[@]}" apply -f -
  manifest
  exit 0
fi
command -v kubectl >/dev/null || fail "there is no kubectl here: install it, or see the manifest with --dry-run"
manifest | "${kubectl[@]}" apply -f -
pods=jobset.sigs.k8s.io/jobset-name=${option[name]}
say "follow it:             $(show "${kubectl[@]}" logs -f --prefix --max-log-requests=2000 -l "$pods")"
say "stop it, state saved:  $(show "${kubectl[@]}" delete jobset "${option[name]}")"

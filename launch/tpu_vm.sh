#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice that exists already; run again, it goes on where it stopped.
#
#   launch/tpu_vm.sh TPU_NAME ZONE BUCKET --config=configs/clip.py [--config.key=value ...]
#
# The working tree is copied as it stands in git's last commit. The run lies in the Cloud Storage bucket BUCKET, which
# every host mounts: all of them write the checkpoints. Make it with --enable-hierarchical-namespace, so that renaming a
# folder is one step, as it is on a disk.
set -euo pipefail

if [[ $# -lt 4 ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit 2
fi
name=$1 zone=$2 bucket=$3
shift 3

cd "$(dirname "$0")/.."
config=$(printf '%s\n' "$@" | sed -n 's/^--config=//p')
run=$(basename "${config%%:*}" .py)
everywhere() { gcloud alpha compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

# 1. The code, and an environment of its own: the images' Python is older than vitfm wants.
archive=$(mktemp --suffix=.tgz)
trap 'rm -f "$archive"' EXIT
git archive --format=tgz --output="$archive" HEAD
gcloud alpha compute tpus tpu-vm scp "$archive" "$name:vitfm.tgz" --zone="$zone" --worker=all
everywhere '
  set -e
  mkdir -p ~/vitfm && tar -xzf ~/vitfm.tgz -C ~/vitfm
  command -v ~/.local/bin/uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  cd ~/vitfm && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12
  ~/.local/bin/uv pip install --quiet -e ".[tpu]"
'

# 2. The bucket, at the same path on every host.
everywhere "
  set -e
  if ! command -v gcsfuse > /dev/null; then
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/gcsfuse.asc > /dev/null
    echo \"deb [signed-by=/usr/share/keyrings/gcsfuse.asc] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" \
      | sudo tee /etc/apt/sources.list.d/gcsfuse.list
    sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
  fi
  mkdir -p ~/runs
  mountpoint -q ~/runs || gcsfuse --implicit-dirs $(printf %q "$bucket") ~/runs
"

# 3. The run, in a session that outlives this connection; TERM makes it save and stop.
everywhere "
cat > ~/vitfm.sh << 'END'
cd ~/vitfm && exec .venv/bin/python -m vitfm.main --distributed=auto --workdir=\"\$HOME/runs/$run\" $(printf '%q ' "$@")
END
tmux new-session -d -s vitfm 'bash ~/vitfm.sh > ~/vitfm.log 2>&1'
"
echo "Started. To follow it, to stop it:"
echo "  gcloud alpha compute tpus tpu-vm ssh $name --zone=$zone --worker=0 --command='tail -f vitfm.log'"
echo "  gcloud alpha compute tpus tpu-vm ssh $name --zone=$zone --worker=all --command='pkill -TERM -f vitfm.main'"

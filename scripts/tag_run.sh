#!/usr/bin/env bash
# Tags the commit that a finished run was trained from with what the run came to.
# scripts/tag_run.sh RUN [TAG]; then: git push origin TAG
set -euo pipefail
run=${1:?name the folder of a run: scripts/tag_run.sh output/first}
tag=${2:-run-$(basename "$run")}
if [ -n "$(git status --porcelain)" ]; then
    echo "something is not committed yet, and a tag names a commit: git add, git commit, then tag" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")/.." && pwd)
said=$(PYTHONPATH="$here" "${PYTHON:-python3}" -m dozan runs "$run" --json | "${PYTHON:-python3}" -c '
import json, sys
run, = json.load(sys.stdin)
if run["state"] != "done":
    state = run["state"]
    sys.exit(f"the run is {state}, not done: dozan resume goes on with it")
score = "" if run["score"] is None else ", score {:.1%}".format(run["score"])
loss = "" if run["loss"] is None else ", loss {:.4f}".format(run["loss"])
print("{recipe} on {base}: {step} steps".format(**run) + loss + score)')
git tag -a "$tag" -m "$said"
echo "$tag: $said"

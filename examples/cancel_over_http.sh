#!/bin/sh
# Starts a team's run on a server (examples/server.py) with curl, and cancels it by its id while it speaks.
#
#   examples/cancel_over_http.sh [URL [team_id [seconds]]]
#
# The id is chosen here, so that there is no moment in which the run could not be cancelled.
set -eu

url=${1:-http://localhost:7777}
team=${2:-storytelling-team}
seconds=${3:-3}
run_id=story-$$
output=$(mktemp)
trap 'rm -f "$output"' EXIT

echo "starting $run_id"
curl -sN "$url/teams/$team/runs" \
    -F 'message=Write a very long story about a dragon who learns to code.' \
    -F "run_id=$run_id" -F stream=true >"$output" &
stream=$!
sleep "$seconds"

echo "cancelling $run_id"
curl -s -X POST "$url/teams/$team/runs/$run_id/cancel"
echo

wait "$stream" # the stream ends with the run
echo "the stream's last event:"
grep '^event: ' "$output" | tail -n 1

echo "cancelling it again:"
curl -s -X POST "$url/teams/$team/runs/$run_id/cancel"
echo

#!/bin/sh
# Submit a job to the gateway with curl, and look at it. The token is not on the command line, where `ps` shows it.
set -eu
: "${HEADRACE_URL:=http://127.0.0.1:8470}" "${HEADRACE_TOKEN:?is missing: the token that your operator gave you}"

call() {
    printf 'header = "Authorization: Bearer %s"\n' "$HEADRACE_TOKEN" |
        curl --config - --silent --show-error --fail-with-body --max-time 30 "$@"
    echo
}

id=${JOB_ID:-$(date +%s)-$$} # the same id again is the same job
job='{"id": "'$id'", "name": "hello-from-curl", "entrypoint": ["echo", "hello from curl"]}'
call "$HEADRACE_URL/v1/jobs" --data-binary "$job"
call "$HEADRACE_URL/v1/jobs/hello-from-curl" >&2

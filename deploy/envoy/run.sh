# Envoy that ends as the server does: at SIGTERM, calls under way are answered first. By itself it cuts
# them. Its maker's image has bash, and no curl.
#   bash run.sh ARGUMENT…    runs it, with these arguments
#   bash run.sh ready        whether it takes calls: what a health check asks

ask() {
    exec 3<>"/dev/tcp/127.0.0.1/${ENVOY_ADMIN_PORT:-9901}" || return
    printf '%s %s HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
    cat <&3
    exec 3>&-
}

if [[ $1 == ready ]]; then
    ask GET /ready | grep -q '^LIVE'
    exit
fi

drain() {
    local end=$((SECONDS + ${ENVOY_DRAIN_GRACE:-30}))
    # Callers are told to go, with the next answer of each connection; a second later none can come.
    ask POST '/drain_listeners?graceful&skip_exit' >/dev/null
    sleep 1
    ask POST /drain_listeners >/dev/null
    until ask GET '/stats?filter=^http.seqserve.downstream_rq_active$' | grep -q 'active: 0' || ((SECONDS >= end)); do
        sleep 0.2
    done
    kill -TERM "$envoy"
}

envoy --drain-time-s 1 --drain-strategy immediate "$@" &
envoy=$!
trap drain TERM INT
wait "$envoy"
ended=$?
# `wait` is over when a signal comes, too.
while kill -0 "$envoy" 2>/dev/null; do
    wait "$envoy"
    ended=$?
done
exit "$ended"

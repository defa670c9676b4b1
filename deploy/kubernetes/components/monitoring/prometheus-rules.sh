#!/bin/sh
# The project's rules as objects of the Prometheus operator:
#   deploy/kubernetes/components/monitoring/prometheus-rules.sh | kubectl apply --namespace seqserve -f -
set -eu
cd "$(dirname "$0")/../../../observe/rules"
for rules in *.yml; do
    cat <<EOF
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: seqserve-${rules%.yml}
  labels:
    app.kubernetes.io/part-of: seqserve
spec:
EOF
    sed 's/^/  /' "$rules"
done

// Where the CustomResourceDefinitions come from that the charts and deploy/examples need beside Kubernetes: nothing is
// compiled, ../support/definitions.ts reads their YAML. A module of its own, so that none of these decides about a
// version of what ../go.mod builds.
module tendril.test/e2e/definitions

go 1.26.7

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/cilium/cilium v1.20.2
	github.com/envoyproxy/gateway v1.7.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
	istio.io/api v1.32.0
	sigs.k8s.io/gateway-api v1.6.3
)

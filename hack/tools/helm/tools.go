//go:build tools

// Package helm pins the Helm command that the chart is tested with.
package helm

import _ "helm.sh/helm/v4/cmd/helm"

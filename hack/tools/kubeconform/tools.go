//go:build tools

// Package kubeconform pins the program that holds rendered manifests to Kubernetes' schemas.
package kubeconform

import _ "github.com/yannh/kubeconform/cmd/kubeconform"

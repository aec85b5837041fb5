//go:build tools

// Package cosign pins the program that users check signatures of a release with.
package cosign

import _ "github.com/sigstore/cosign/v3/cmd/cosign"

//go:build tools

// Package nfpm pins the program that writes deb and rpm packages.
package nfpm

import _ "github.com/goreleaser/nfpm/v2/cmd/nfpm"

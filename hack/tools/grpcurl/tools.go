//go:build tools

// Package grpcurl pins the foreign gRPC client that the tests call the tenants' API with.
package grpcurl

import _ "github.com/fullstorydev/grpcurl/cmd/grpcurl"

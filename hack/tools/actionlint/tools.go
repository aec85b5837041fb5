//go:build tools

// Package actionlint pins the program that the workflows are checked with.
package actionlint

import _ "github.com/rhysd/actionlint/cmd/actionlint"

package filestore_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the child process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

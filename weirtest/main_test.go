package weirtest_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a testing.TB that keeps what a test that fails would print.
type recorder struct {
	testing.TB
	ctx context.Context // instead of the test's, if it is not nil

	mu       sync.Mutex
	log      strings.Builder // guarded by mu
	failed   bool            // guarded by mu
	cleanups []func()        // guarded by mu
}

// record runs fn as a test, to its end or its first Fatal, and its cleanups.
func record(t *testing.T, fn func(t *recorder)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(r)
	}()
	<-done
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return r
}

func (r *recorder) Helper() {}

func (r *recorder) Context() context.Context {
	if r.ctx != nil {
		return r.ctx
	}
	return r.TB.Context()
}

func (r *recorder) Cleanup(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, fn)
}

func (r *recorder) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.log, format+"\n", args...)
}

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Log(args ...any)   { r.Logf("%s", fmt.Sprintln(args...)) }
func (r *recorder) Error(args ...any) { r.Errorf("%s", fmt.Sprintln(args...)) }
func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprintln(args...)) }

func (r *recorder) Errorf(format string, args ...any) {
	r.Logf(format, args...)
	r.Fail()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Logf(format, args...)
	r.FailNow()
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// passes checks that a test has found nothing.
func (r *recorder) passes(t *testing.T) {
	t.Helper()
	if r.Failed() {
		t.Errorf("it failed:\n%s", r.text())
	}
}

// fails checks that a test has failed, and said all of these.
func (r *recorder) fails(t *testing.T, says ...string) {
	t.Helper()
	if !r.Failed() {
		t.Error("it has not failed")
	}
	for _, s := range says {
		if !strings.Contains(r.text(), s) {
			t.Errorf("it does not say %q, but\n%s", s, r.text())
		}
	}
}
